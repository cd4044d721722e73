/* What runs before main on an STM32F446: data, zeroes, the FPU. No vendor library. */
#include <stdint.h>

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[];
int main(void);

static void stop(void)
{
    for (;;) {
    }
}

void reset(void)
{
    uint32_t *from = data_load;
    for (volatile uint32_t *to = data_start; to < data_end;) { *to++ = *from++; }
    for (volatile uint32_t *to = bss_start; to < bss_end;) { *to++ = 0; }
    /* CPACR: full access to the FPU, coprocessors 10 and 11. */
    *(volatile uint32_t *)0xE000ED88u |= 0xF00000u;
    __asm__ volatile("dsb\n isb");
    (void)main();
    stop();
}

/* The exceptions of the core; a firmware with interrupts adds those of the part. */
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))(uintptr_t)stack_top, reset, stop, stop, stop, stop, stop, 0,
    0, 0, 0, stop, stop, 0, stop, stop,
};
