/* The stretches between edgec_layer_start and edgec_layer_stop are windows of their own where a
 * check program counts, and are timed where there is a clock. */
#ifdef __linux__
#define _POSIX_C_SOURCE 200809L
#include <time.h>
#endif

#include "edgec_layers.h"

/* Present in a check program; absent where the model is loaded as a library. */
__attribute__((weak)) void port_window_begin(void);
__attribute__((weak)) void port_window_end(void);
/* A board may supply a counter that runs; see edgec_serial.h. */
__attribute__((weak)) uint32_t board_ticks(void);

static uint32_t started;

static uint32_t now(void)
{
#ifdef __linux__
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint32_t)time.tv_sec * 1000000000u + (uint32_t)time.tv_nsec;
#else
    return board_ticks ? board_ticks() : 0;
#endif
}

void edgec_layer_start(void)
{
    started = now();
    if (port_window_begin)
        port_window_begin();
}

int32_t edgec_layer_stop(void)
{
    if (port_window_end)
        port_window_end();
    return (int32_t)(now() - started);
}
