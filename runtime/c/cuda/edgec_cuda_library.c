/* The functions of the CUDA driver, from the library that every NVIDIA driver installs. */
#include <dlfcn.h>
#include <string.h>

#include "edgec_cuda_driver.h"

/* In the order of edgec_cuda_api; the suffixes are the driver's own versions of its functions. */
static const char *const names[] = {
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2",
    "cuModuleLoadData", "cuModuleUnload", "cuModuleGetFunction", "cuMemAlloc_v2", "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamCreate", "cuStreamSynchronize",
    "cuStreamDestroy_v2", "cuLaunchKernel", "cuGetErrorString",
};

_Static_assert(sizeof(edgec_cuda_api) == (sizeof names / sizeof names[0]) * sizeof(void *),
               "one name per function");

int32_t edgec_cuda_find(edgec_cuda_api *api)
{
    void *const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) {
        return -1;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
        void *const function = dlsym(library, names[i]);
        if (function == NULL) {
            return -1;
        }
        memcpy((char *)api + i * sizeof function, &function, sizeof function);
    }
    return 0;
}
