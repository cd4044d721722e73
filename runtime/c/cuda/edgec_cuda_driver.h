/* The host side of a model on an NVIDIA GPU: tables, and the calls of the CUDA driver API.
 *
 * Nothing of NVIDIA's is needed to build or link this: the driver's library is opened at run time.
 * One block of GPU memory holds constants, inputs, outputs and working memory; every pointer that
 * a GPU function takes is an offset into it. */
#ifndef EDGEC_CUDA_DRIVER_H
#define EDGEC_CUDA_DRIVER_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* Most pointers that one GPU function takes. */
#define EDGEC_CUDA_ARGUMENTS 32
/* Threads of a block. */
#define EDGEC_CUDA_BLOCK 128

/* Status of a run besides 0 (done) and the positive error numbers of the CUDA driver. */
enum { EDGEC_CUDA_NO_DRIVER = -1, EDGEC_CUDA_NO_DEVICE = -2 };

/* Constant data and where it lies in GPU memory. */
typedef struct {
    const void *data;
    uint64_t offset;
    uint64_t bytes;
} edgec_cuda_constant;

/* An input or output in GPU memory. */
typedef struct {
    uint64_t offset;
    uint64_t bytes;
} edgec_cuda_port;

/* One GPU function over `threads` outputs; its pointers are arguments[first .. first + count).
 * Functions that are launched once per step take the step behind them. */
typedef struct {
    const char *function;
    uint32_t threads;
    uint32_t first;
    uint32_t count;
    int32_t step;
} edgec_cuda_launch;

typedef struct {
    const void *cubin;
    uint64_t memory_bytes;
    const edgec_cuda_constant *constants;
    size_t constant_count;
    const edgec_cuda_port *inputs;
    size_t input_count;
    const edgec_cuda_port *outputs;
    size_t output_count;
    const edgec_cuda_launch *launches;
    size_t launch_count;
    const uint64_t *arguments;
} edgec_cuda_model;

/* What is open on the device; one run at a time. `functions` has one entry per launch. */
typedef struct {
    pthread_mutex_t lock;
    void **functions;
    int32_t is_open;
    int32_t device;
    void *context;
    void *module;
    void *stream;
    uint64_t memory;
    char error[160];
} edgec_cuda_session;

#define EDGEC_CUDA_SESSION(functions)                                                             \
    {                                                                                             \
        PTHREAD_MUTEX_INITIALIZER, functions, 0, 0, NULL, NULL, NULL, 0, ""                       \
    }

/* Load the model onto a device; runs do it on device 0 where it was not done. Returns a status. */
int32_t edgec_cuda_open(edgec_cuda_session *session, const edgec_cuda_model *model, int32_t device);

/* One inference: copies inputs in, launches everything, copies outputs out. Returns a status. */
int32_t edgec_cuda_run(edgec_cuda_session *session, const edgec_cuda_model *model,
                       const void *const *inputs, void *const *outputs);

/* Give back what the model holds on the device. */
void edgec_cuda_close(edgec_cuda_session *session);

/* The functions of the driver that are used, under their names without "cu". */
typedef struct {
    int (*Init)(unsigned flags);
    int (*DeviceGetCount)(int *count);
    int (*DeviceGet)(int *device, int ordinal);
    int (*DevicePrimaryCtxRetain)(void **context, int device);
    int (*DevicePrimaryCtxRelease)(int device);
    int (*CtxPushCurrent)(void *context);
    int (*CtxPopCurrent)(void **context);
    int (*ModuleLoadData)(void **module, const void *image);
    int (*ModuleUnload)(void *module);
    int (*ModuleGetFunction)(void **function, void *module, const char *name);
    int (*MemAlloc)(uint64_t *memory, size_t bytes);
    int (*MemFree)(uint64_t memory);
    int (*MemcpyHtoDAsync)(uint64_t to, const void *from, size_t bytes, void *stream);
    int (*MemcpyDtoHAsync)(void *to, uint64_t from, size_t bytes, void *stream);
    int (*StreamCreate)(void **stream, unsigned flags);
    int (*StreamSynchronize)(void *stream);
    int (*StreamDestroy)(void *stream);
    int (*LaunchKernel)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        void *stream, void **parameters, void **extra);
    int (*GetErrorString)(int error, const char **text);
} edgec_cuda_api;

/* Fill in api; returns 0, or -1 where there is no driver. edgec_cuda_library.c opens the driver;
 * edgec_cuda_emulator.c takes its place in the check program. */
int32_t edgec_cuda_find(edgec_cuda_api *api);

#endif /* EDGEC_CUDA_DRIVER_H */
