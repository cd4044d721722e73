/* A GPU on the CPU: the driver's functions that edgec uses, over the kernels compiled as C.
 *
 * It stands in for libcuda in the check program where there is no GPU. It executes what the host
 * program launches, thread after thread, the last block first: a kernel that relies on the order
 * of threads or blocks answers differently. Nothing is said about time. */
#include <stdlib.h>
#include <string.h>

#include "edgec_cuda_driver.h"
#include "edgec_cuda_emulator.h"

int32_t edgec_emulated_thread, edgec_emulated_threads;

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

static int handle; /* contexts, modules and streams are this */

static int init(unsigned flags)
{
    return flags == 0 ? 0 : INVALID_VALUE;
}

static int device_get_count(int *count)
{
    *count = 1;
    return 0;
}

static int device_get(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal == 0 ? 0 : INVALID_VALUE;
}

static int retain(void **context, int device)
{
    *context = &handle;
    return device == 0 ? 0 : INVALID_VALUE;
}

static int release_device(int device)
{
    return device == 0 ? 0 : INVALID_VALUE;
}

static int known(void *given)
{
    return given == &handle ? 0 : INVALID_VALUE;
}

static int pop(void **context)
{
    if (context != NULL) {
        *context = &handle;
    }
    return 0;
}

/* The image must be what a GPU would be given: an ELF file. */
static int load_module(void **module, const void *image)
{
    *module = &handle;
    return memcmp(image, "\177ELF", 4) == 0 ? 0 : INVALID_VALUE;
}

static int get_function(void **function, void *module, const char *name)
{
    for (const edgec_emulated_function *f = edgec_emulated_functions; f->name != NULL; ++f) {
        if (strcmp(f->name, name) == 0) {
            *function = (void *)(uintptr_t)f;
            return known(module);
        }
    }
    return NOT_FOUND;
}

static int allocate(uint64_t *memory, size_t bytes)
{
    void *const block = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (block == NULL) {
        return OUT_OF_MEMORY;
    }
    memset(block, 0xA5, bytes); /* nothing may rely on what was there */
    *memory = (uint64_t)(uintptr_t)block;
    return 0;
}

static int free_memory(uint64_t memory)
{
    free((void *)(uintptr_t)memory);
    return 0;
}

static int to_device(uint64_t to, const void *from, size_t bytes, void *stream)
{
    memcpy((void *)(uintptr_t)to, from, bytes);
    return known(stream);
}

static int to_host(void *to, uint64_t from, size_t bytes, void *stream)
{
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return known(stream);
}

static int create_stream(void **stream, unsigned flags)
{
    *stream = &handle;
    return flags <= 1 ? 0 : INVALID_VALUE;
}

static int launch(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                  void *stream, void **parameters, void **extra)
{
    const edgec_emulated_function *f = function;
    if (grid_y * grid_z * block_y * block_z != 1 || grid_x == 0 || block_x == 0 ||
        block_x > 1024 || shared_bytes != 0 || extra != NULL || known(stream) != 0) {
        return INVALID_VALUE;
    }
    edgec_emulated_threads = (int32_t)(grid_x * block_x);
    for (unsigned block = grid_x; block-- > 0;) {
        for (unsigned thread = 0; thread < block_x; ++thread) {
            edgec_emulated_thread = (int32_t)(block * block_x + thread);
            f->call(parameters);
        }
    }
    return 0;
}

static int error_string(int error, const char **text)
{
    *text = error == NOT_FOUND ? "named symbol not found" : "invalid argument";
    return 0;
}

int32_t edgec_cuda_find(edgec_cuda_api *api)
{
    const edgec_cuda_api emulated = {
        .Init = init,
        .DeviceGetCount = device_get_count,
        .DeviceGet = device_get,
        .DevicePrimaryCtxRetain = retain,
        .DevicePrimaryCtxRelease = release_device,
        .CtxPushCurrent = known,
        .CtxPopCurrent = pop,
        .ModuleLoadData = load_module,
        .ModuleUnload = known,
        .ModuleGetFunction = get_function,
        .MemAlloc = allocate,
        .MemFree = free_memory,
        .MemcpyHtoDAsync = to_device,
        .MemcpyDtoHAsync = to_host,
        .StreamCreate = create_stream,
        .StreamSynchronize = known,
        .StreamDestroy = known,
        .LaunchKernel = launch,
        .GetErrorString = error_string,
    };
    *api = emulated;
    return 0;
}
