/* The device's end of a check by TVM's RPC: a library that any TVM RPC server loads.
 *
 * It exports one function in the calling convention of tvm-ffi. The model's own library and its
 * file of constants are loaded in a child process: when the model crashes or hangs, only the child
 * ends, and the server can say why and goes on. check_ports.h declares check_model, see
 * targets/harness.py. */
#define _DEFAULT_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const void *port_weights;
#include "check_buffers.h"
#include "edgec_port.h"

/* What the function returns besides the exit codes of edgec_port.h; -N: signal N ended it. */
enum { RPC_TIMEOUT = 100, RPC_SYSTEM = 101, RPC_LOAD = 102, RPC_ARGUMENTS = 103 };

/* A short run is timed in a loop of at least this long, to be far above the clock's own cost. */
#define TIMED_NS 100000
#define MOST_IN_LOOP 10000

/* The parts of the ABI of tvm-ffi and DLPack that are needed here; both are fixed. */
typedef struct {
    int32_t type;
    uint32_t padding;
    union {
        int64_t number;
        void *pointer;
    } value;
} ffi_any;

typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;

enum { FFI_INT = 1, FFI_TENSOR_POINTER = 7, FFI_TENSOR_OBJECT = 70, FFI_OBJECT_HEADER_BYTES = 24 };

/* A tensor of bytes. */
typedef struct {
    uint8_t *data;
    size_t bytes;
} span;

/* What is asked for: samples one after the other, and where the answers go. `log` takes lines
 * "key value"; `library` and `weights` are paths, weights empty where there is no such file. */
typedef struct {
    span inputs, outputs, times, log, library, weights;
    size_t first, repeat;
    int timeout_ms;
} job;

#define COUNT_BYTES(type, name, elements) +sizeof buffer_##name.data
enum { INPUT_BYTES = 0 CHECK_INPUTS(COUNT_BYTES), OUTPUT_BYTES = 0 CHECK_OUTPUTS(COUNT_BYTES) };

static void *library;

static void say(span log, const char *key, const char *value)
{
    snprintf((char *)log.data, log.bytes, "%s %s\n", key, value);
}

static double now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

/* Say what the model's library says of a run that failed, where it says anything. */
static int failed(span log, int32_t status)
{
    const char *(*explain)(void) = NULL;
    char text[16];
    void *found = dlsym(library, CHECK_NAME "_error");
    memcpy(&explain, &found, sizeof found);
    snprintf(text, sizeof text, "%ld", (long)status);
    say(log, explain == NULL ? "status" : "reason", explain == NULL ? text : explain());
    return CHECK_STATUS;
}

static int load(const job *asked)
{
    library = dlopen((const char *)asked->library.data, RTLD_NOW | RTLD_LOCAL);
    void *found = library == NULL ? NULL : dlsym(library, CHECK_FUNCTION);
    if (found == NULL) {
        say(asked->log, "reason", dlerror());
        return RPC_LOAD;
    }
    memcpy(&check_model, &found, sizeof found);
    if (asked->weights.data[0] == 0)
        return CHECK_OK;
    int file = open((const char *)asked->weights.data, O_RDONLY);
    off_t size = file < 0 ? -1 : lseek(file, 0, SEEK_END);
    port_weights = size < 0 ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, file, 0);
    if (port_weights != MAP_FAILED)
        return CHECK_OK;
    say(asked->log, "reason", strerror(errno));
    return RPC_LOAD;
}

static int run_sample(const job *asked, size_t index)
{
    const uint8_t *from = asked->inputs.data + index * INPUT_BYTES;
    uint8_t *to = asked->outputs.data + index * OUTPUT_BYTES;
    double *times = (double *)(void *)asked->times.data + index * asked->repeat;
    poison((uint8_t)(0x5A + 0x35 * (asked->first + index)));
#define TAKE(type, name, elements)                                                                \
    memcpy(buffer_##name.data, from, sizeof buffer_##name.data);                                  \
    from += sizeof buffer_##name.data;
    CHECK_INPUTS(TAKE)
    double start = now_ns();
    int32_t status = CHECK_RUN(buffer_arena.data);
    double first_ns = now_ns() - start;
    const char *past = overrun();
    if (past != NULL) {
        say(asked->log, "overrun", past);
        return CHECK_OVERRUN;
    }
    if (status != 0)
        return failed(asked->log, status);
#define GIVE(type, name, elements)                                                                \
    memcpy(to, buffer_##name.data, sizeof buffer_##name.data);                                    \
    to += sizeof buffer_##name.data;
    CHECK_OUTPUTS(GIVE)
    double loops = first_ns < 1 ? MOST_IN_LOOP : TIMED_NS / first_ns + 1;
    size_t number = loops < MOST_IN_LOOP ? (size_t)loops : MOST_IN_LOOP;
    for (size_t turn = 0; turn < asked->repeat; turn++) {
        start = now_ns();
        for (size_t i = 0; i < number; i++)
            (void)CHECK_RUN(buffer_arena.data);
        times[turn] = (now_ns() - start) / (double)number * 1e-9;
    }
    return CHECK_OK;
}

static int run_all(const job *asked)
{
    int result = load(asked);
    for (size_t i = 0; result == CHECK_OK && i < asked->inputs.bytes / INPUT_BYTES; i++)
        result = run_sample(asked, i);
    return result;
}

/* Wait for the child until it ends or the time is over. It holds the pipe open while it lives. */
static int wait_for(pid_t child, int pipe_end, int timeout_ms)
{
    struct pollfd watched = {.fd = pipe_end, .events = POLLIN};
    double deadline = now_ns() + timeout_ms * 1e6;
    int ready, state;
    do {
        double left_ms = (deadline - now_ns()) * 1e-6;
        ready = poll(&watched, 1, left_ms > 0 ? (int)left_ms : 0);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0)
        kill(child, SIGKILL);
    while (waitpid(child, &state, 0) < 0)
        if (errno != EINTR)
            return RPC_SYSTEM;
    if (ready == 0)
        return RPC_TIMEOUT;
    return WIFSIGNALED(state) ? -WTERMSIG(state) : WEXITSTATUS(state);
}

/* Run a job in a child process; the answers come through memory that both share. */
static int run_apart(const job *asked)
{
    size_t bytes = asked->times.bytes + asked->outputs.bytes + asked->log.bytes;
    int ends[2];
    uint8_t *shared =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || pipe(ends) != 0) {
        say(asked->log, "reason", strerror(errno));
        return RPC_SYSTEM;
    }
    job inner = *asked;
    inner.times.data = shared; /* first: it is aligned */
    inner.outputs.data = shared + asked->times.bytes;
    inner.log.data = inner.outputs.data + asked->outputs.bytes;
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody else would end it */
        _exit(run_all(&inner));
    }
    int failed = errno;
    close(ends[1]);
    int result = child < 0 ? RPC_SYSTEM : wait_for(child, ends[0], asked->timeout_ms);
    close(ends[0]);
    memcpy(asked->times.data, inner.times.data, asked->times.bytes);
    memcpy(asked->outputs.data, inner.outputs.data, asked->outputs.bytes);
    memcpy(asked->log.data, inner.log.data, asked->log.bytes);
    if (child < 0)
        say(asked->log, "reason", strerror(failed));
    munmap(shared, bytes);
    return result;
}

/* The bytes of a tensor argument; none when it is something else. */
static span bytes_of(const ffi_any *argument)
{
    const uint8_t *at = argument->value.pointer;
    span found = {NULL, 0};
    if (argument->type != FFI_TENSOR_POINTER && argument->type != FFI_TENSOR_OBJECT)
        return found;
    if (argument->type == FFI_TENSOR_OBJECT)
        at += FFI_OBJECT_HEADER_BYTES;
    const dl_tensor *tensor = (const void *)at;
    found.bytes = tensor->bits / 8u;
    for (int32_t i = 0; i < tensor->ndim; i++)
        found.bytes *= (size_t)tensor->shape[i];
    found.data = (uint8_t *)tensor->data + tensor->byte_offset;
    return found;
}

/* edgec_check(inputs, outputs, times, log, library, weights, first, repeat, timeout_ms) */
__attribute__((visibility("default"))) int
__tvm_ffi_edgec_check(void *self, const ffi_any *arguments, int32_t count, ffi_any *result);

int __tvm_ffi_edgec_check(void *self, const ffi_any *arguments, int32_t count, ffi_any *result)
{
    (void)self;
    result->type = FFI_INT;
    result->padding = 0;
    result->value.number = RPC_ARGUMENTS;
    if (count != 9)
        return 0;
    span parts[6];
    for (int i = 0; i < 6; i++)
        parts[i] = bytes_of(&arguments[i]);
    job asked = {
        .inputs = parts[0], .outputs = parts[1], .times = parts[2], .log = parts[3],
        .library = parts[4], .weights = parts[5], .first = (size_t)arguments[6].value.number,
        .repeat = (size_t)arguments[7].value.number, .timeout_ms = (int)arguments[8].value.number,
    };
    size_t samples = asked.inputs.bytes / INPUT_BYTES;
    if (samples * INPUT_BYTES == asked.inputs.bytes && samples * OUTPUT_BYTES == asked.outputs.bytes &&
        samples * asked.repeat * sizeof(double) == asked.times.bytes && asked.log.bytes > 0)
        result->value.number = run_apart(&asked);
    return 0;
}
