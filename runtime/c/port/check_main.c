/* The check program: runs the model on every sample of the input file.
 *
 * A sample is all inputs in order as raw little-endian bytes; for each the program appends all
 * outputs in order to the output file. The first window is empty (its count is the overhead), then
 * comes one window per sample; each reports "stack N". At the end "arena N".
 *
 * check_ports.h is generated per model and defines:
 *   CHECK_ARENA_BYTES         bytes of the arena
 *   CHECK_INPUTS(PORT)        PORT(type, name, elements) for every input, in order
 *   CHECK_OUTPUTS(PORT)       the same for every output
 *   CHECK_RUN(arena)          the call of the model on buffer_<name>.data and arena */
#include "edgec_port.h"

#include "check_ports.h"

#define GUARD_BYTES 16
#define GUARD_VALUE 0xC5

#define DECLARE(type, name, elements)                                                             \
    static struct {                                                                               \
        _Alignas(16) type data[elements];                                                         \
        uint8_t guard[GUARD_BYTES];                                                               \
    } buffer_##name;

CHECK_INPUTS(DECLARE)
CHECK_OUTPUTS(DECLARE)
DECLARE(uint8_t, arena, CHECK_ARENA_BYTES > 0 ? CHECK_ARENA_BYTES : 16)

static void fill(void *at, size_t bytes, uint8_t value)
{
    for (volatile uint8_t *p = at; bytes > 0; bytes--)
        *p++ = value;
}

static int intact(const uint8_t *guard)
{
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (guard[i] != GUARD_VALUE)
            return 0;
    return 1;
}

/* A model that reads what it did not write must not get the same bytes twice. */
static void poison(uint8_t value)
{
    fill(buffer_arena.data, sizeof buffer_arena.data, value);
    fill(buffer_arena.guard, GUARD_BYTES, GUARD_VALUE);
#define POISON(type, name, elements)                                                              \
    fill(buffer_##name.data, sizeof buffer_##name.data, value);                                     \
    fill(buffer_##name.guard, GUARD_BYTES, GUARD_VALUE);
    CHECK_OUTPUTS(POISON)
#define GUARD(type, name, elements) fill(buffer_##name.guard, GUARD_BYTES, GUARD_VALUE);
    CHECK_INPUTS(GUARD)
}

static const char *overrun(void)
{
#define INTACT(type, name, elements)                                                              \
    if (!intact(buffer_##name.guard))                                                              \
        return #name;
    CHECK_INPUTS(INTACT)
    CHECK_OUTPUTS(INTACT)
    INTACT(uint8_t, arena, 0)
    return NULL;
}

/* Returns 1 for a whole sample, 0 at the end of the file, -1 for a piece of one. */
static int read_sample(void)
{
    size_t wanted = 0, got = 0;
#define READ(type, name, elements)                                                                \
    wanted += sizeof buffer_##name.data;                                                           \
    got += port_read(buffer_##name.data, sizeof buffer_##name.data);
    CHECK_INPUTS(READ)
    return got == wanted ? 1 : got == 0 ? 0 : -1;
}

static int write_sample(void)
{
    int status = 0;
#define WRITE(type, name, elements) status |= port_write(buffer_##name.data, sizeof buffer_##name.data);
    CHECK_OUTPUTS(WRITE)
    return status;
}

static int32_t check_nothing(void)
{
    return 0;
}

static int32_t check_once(void)
{
    return CHECK_RUN(buffer_arena.data);
}

__attribute__((noinline)) static int check_window(int32_t (*run)(void))
{
    port_stack_paint();
    port_window_begin();
    int32_t status = run();
    port_window_end();
    uint32_t stack = port_stack_used();
    if (stack == PORT_STACK_OVERFLOW)
        return CHECK_STACK;
    port_number("stack", stack);
    if (status != 0) {
        port_number("status", (uint32_t)status);
        return CHECK_STATUS;
    }
    return CHECK_OK;
}

static int check_sample(uint8_t pattern)
{
    poison(pattern);
    int result = check_window(check_once);
    const char *past = overrun();
    if (past != NULL) {
        port_text("overrun ");
        port_text(past);
        port_text("\n");
        return CHECK_OVERRUN;
    }
    if (result == CHECK_OK && write_sample() != 0)
        result = CHECK_WRITE;
    return result;
}

int check_main(void)
{
    int state, result = check_window(check_nothing);
    uint8_t pattern = 0x5A;
    while (result == CHECK_OK && (state = read_sample()) != 0) {
        result = state < 0 ? CHECK_TRUNCATED : check_sample(pattern);
        pattern = (uint8_t)(pattern * 5 + 1);
    }
    port_number("arena", CHECK_ARENA_BYTES);
    return result;
}
