/* See edgec_cuda_driver.h. */
#include "edgec_cuda_driver.h"

#include <stdio.h>

static edgec_cuda_api api;
static int32_t api_status = 1; /* not looked for yet */
static pthread_mutex_t api_lock = PTHREAD_MUTEX_INITIALIZER;

static int32_t find_driver(void)
{
    pthread_mutex_lock(&api_lock);
    if (api_status == 1) {
        api_status = edgec_cuda_find(&api);
    }
    const int32_t found = api_status;
    pthread_mutex_unlock(&api_lock);
    return found;
}

/* Keep the reason of a failure; returns status. */
static int32_t fail(edgec_cuda_session *s, const char *what, int32_t status)
{
    const char *why = NULL;
    if (status > 0) {
        (void)api.GetErrorString(status, &why);
    }
    (void)snprintf(s->error, sizeof s->error, "%s%s%s", what, why == NULL ? "" : ": ",
                   why == NULL ? "" : why);
    return status;
}

static void leave_context(void)
{
    void *left = NULL;
    (void)api.CtxPopCurrent(&left);
}

/* Give back what is held, whatever was reached; the context is current. */
static void release(edgec_cuda_session *s)
{
    if (s->stream != NULL) {
        (void)api.StreamDestroy(s->stream);
    }
    if (s->memory != 0) {
        (void)api.MemFree(s->memory);
    }
    if (s->module != NULL) {
        (void)api.ModuleUnload(s->module);
    }
    s->stream = NULL;
    s->memory = 0;
    s->module = NULL;
}

/* Load code and constants; the context is current. */
static int32_t load(edgec_cuda_session *s, const edgec_cuda_model *m)
{
    int status = api.ModuleLoadData(&s->module, m->cubin);
    if (status != 0) {
        return fail(s, "the device does not take the compiled kernels", status);
    }
    for (size_t i = 0; i < m->launch_count; ++i) {
        status = api.ModuleGetFunction(&s->functions[i], s->module, m->launches[i].function);
        if (status != 0) {
            return fail(s, m->launches[i].function, status);
        }
    }
    status = api.MemAlloc(&s->memory, m->memory_bytes);
    if (status != 0) {
        return fail(s, "no memory for the model on the device", status);
    }
    status = api.StreamCreate(&s->stream, 1U); /* not tied to the default stream */
    for (size_t i = 0; i < m->constant_count && status == 0; ++i) {
        const edgec_cuda_constant *c = &m->constants[i];
        status = api.MemcpyHtoDAsync(s->memory + c->offset, c->data, c->bytes, s->stream);
    }
    if (status == 0) {
        status = api.StreamSynchronize(s->stream);
    }
    return status == 0 ? 0 : fail(s, "the weights could not be copied", status);
}

static int32_t open_locked(edgec_cuda_session *s, const edgec_cuda_model *m, int32_t ordinal)
{
    int count = 0, device = 0;
    if (find_driver() != 0) {
        return fail(s, "there is no NVIDIA driver (libcuda.so.1) here", EDGEC_CUDA_NO_DRIVER);
    }
    if (api.Init(0) != 0 || api.DeviceGetCount(&count) != 0 || ordinal < 0 || ordinal >= count) {
        return fail(s, "there is no such NVIDIA device", EDGEC_CUDA_NO_DEVICE);
    }
    int status = api.DeviceGet(&device, ordinal);
    if (status == 0) {
        status = api.DevicePrimaryCtxRetain(&s->context, device);
    }
    if (status != 0) {
        return fail(s, "the device cannot be opened", status);
    }
    s->device = device;
    status = api.CtxPushCurrent(s->context);
    if (status == 0) {
        status = load(s, m);
        if (status != 0) {
            release(s);
        }
        leave_context();
    } else {
        status = fail(s, "the device cannot be used", status);
    }
    if (status != 0) {
        (void)api.DevicePrimaryCtxRelease(device);
    }
    s->is_open = status == 0;
    return status;
}

int32_t edgec_cuda_open(edgec_cuda_session *session, const edgec_cuda_model *model, int32_t device)
{
    pthread_mutex_lock(&session->lock);
    const int32_t status = session->is_open ? 0 : open_locked(session, model, device);
    pthread_mutex_unlock(&session->lock);
    return status;
}

static int launch(edgec_cuda_session *s, const edgec_cuda_model *m, size_t index)
{
    const edgec_cuda_launch *l = &m->launches[index];
    uint64_t addresses[EDGEC_CUDA_ARGUMENTS];
    void *parameters[EDGEC_CUDA_ARGUMENTS + 1];
    int32_t step = l->step;
    for (uint32_t i = 0; i < l->count; ++i) {
        addresses[i] = s->memory + m->arguments[l->first + i];
        parameters[i] = &addresses[i];
    }
    parameters[l->count] = &step; /* not looked at where the function takes none */
    const unsigned blocks = (l->threads + EDGEC_CUDA_BLOCK - 1) / EDGEC_CUDA_BLOCK;
    return api.LaunchKernel(s->functions[index], blocks, 1, 1, EDGEC_CUDA_BLOCK, 1, 1, 0, s->stream,
                            parameters, NULL);
}

static int32_t infer(edgec_cuda_session *s, const edgec_cuda_model *m, const void *const *inputs,
                     void *const *outputs)
{
    int status = 0;
    for (size_t i = 0; i < m->input_count && status == 0; ++i) {
        const edgec_cuda_port *p = &m->inputs[i];
        status = api.MemcpyHtoDAsync(s->memory + p->offset, inputs[i], p->bytes, s->stream);
    }
    for (size_t i = 0; i < m->launch_count && status == 0; ++i) {
        status = launch(s, m, i);
    }
    for (size_t i = 0; i < m->output_count && status == 0; ++i) {
        const edgec_cuda_port *p = &m->outputs[i];
        status = api.MemcpyDtoHAsync(outputs[i], s->memory + p->offset, p->bytes, s->stream);
    }
    const int finished = api.StreamSynchronize(s->stream);
    status = status == 0 ? finished : status;
    s->error[0] = '\0';
    return status == 0 ? 0 : fail(s, "the device failed", status);
}

int32_t edgec_cuda_run(edgec_cuda_session *session, const edgec_cuda_model *model,
                       const void *const *inputs, void *const *outputs)
{
    pthread_mutex_lock(&session->lock);
    int32_t status = session->is_open ? 0 : open_locked(session, model, 0);
    if (status == 0) {
        status = api.CtxPushCurrent(session->context);
        if (status == 0) {
            status = infer(session, model, inputs, outputs);
            leave_context();
        } else {
            status = fail(session, "the device cannot be used", status);
        }
    }
    pthread_mutex_unlock(&session->lock);
    return status;
}

void edgec_cuda_close(edgec_cuda_session *session)
{
    pthread_mutex_lock(&session->lock);
    if (session->is_open) {
        if (api.CtxPushCurrent(session->context) == 0) {
            release(session);
            leave_context();
        }
        (void)api.DevicePrimaryCtxRelease(session->device);
        session->is_open = 0;
    }
    pthread_mutex_unlock(&session->lock);
}
