/* The check program on a bare Cortex-M: startup, fault report, files in.bin and out.bin through
 * semihosting (the debugger or emulator serves them). */
#include "edgec_port.h"

extern uint32_t port_data_start[], port_data_end[], port_data_load[];
extern uint32_t port_bss_start[], port_bss_end[];
extern uint32_t port_stack_limit[], port_stack_top[];

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06 };
enum { SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };
enum { MODE_READ_BINARY = 1, MODE_WRITE_BINARY = 5 };

static int semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(int code)
{
    uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    semihost(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

void port_text(const char *line)
{
    semihost(SYS_WRITE0, line);
}

static char *digits(char *end, uint32_t value, uint32_t base)
{
    *end = 0;
    do
        *--end = "0123456789abcdef"[value % base];
    while (value /= base);
    return end;
}

static void report(const char *key, uint32_t value, uint32_t base)
{
    char buffer[12];
    port_text(key);
    port_text(base == 16 ? " 0x" : " ");
    port_text(digits(buffer + sizeof buffer - 1, value, base));
    port_text("\n");
}

void port_number(const char *key, uint32_t value)
{
    report(key, value, 10);
}

static int open_file(const char *name, uint32_t length, uint32_t mode)
{
    uint32_t block[3] = {(uint32_t)name, mode, length};
    int handle = semihost(SYS_OPEN, block);
    if (handle < 0)
        leave(CHECK_FILES);
    return handle;
}

size_t port_read(void *to, size_t bytes)
{
    static int handle;
    if (handle == 0)
        handle = open_file("in.bin", 6, MODE_READ_BINARY);
    uint32_t block[3] = {(uint32_t)handle, (uint32_t)to, bytes};
    return bytes - (size_t)semihost(SYS_READ, block);
}

int port_write(const void *from, size_t bytes)
{
    static int handle;
    if (handle == 0)
        handle = open_file("out.bin", 7, MODE_WRITE_BINARY);
    uint32_t block[3] = {(uint32_t)handle, (uint32_t)from, bytes};
    return semihost(SYS_WRITE, block) == 0 ? 0 : -1;
}

__attribute__((naked, noinline, used)) void port_window_begin(void)
{
    __asm__ volatile("bx lr");
}

__attribute__((naked, noinline, used)) void port_window_end(void)
{
    __asm__ volatile("bx lr");
}

#define PAINT 0xA5C3F00Du
static uint32_t *stack_top;

__attribute__((noinline)) void port_stack_paint(void)
{
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    stack_top = sp;
    for (volatile uint32_t *at = port_stack_limit; at < sp; at++)
        *at = PAINT;
}

__attribute__((noinline)) uint32_t port_stack_used(void)
{
    volatile uint32_t *at = port_stack_limit;
    while (at < stack_top && *at == PAINT)
        at++;
    return at == port_stack_limit ? PORT_STACK_OVERFLOW
                                  : (uint32_t)((uintptr_t)stack_top - (uintptr_t)at);
}

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* `frame`: what the processor pushed, r0-r3 r12 lr pc psr; outside the stack after an overflow. */
__attribute__((used, noreturn)) static void fault_report(const uint32_t *frame)
{
    port_text("fault\n");
    if (frame >= port_stack_limit && frame + 8 <= port_stack_top) {
        report("pc", frame[6], 16);
        report("lr", frame[5], 16);
    }
    report("cfsr", REGISTER(0xE000ED28), 16);
    report("hfsr", REGISTER(0xE000ED2C), 16);
    report("bfar", REGISTER(0xE000ED38), 16);
    leave(PORT_FAULT);
    for (;;) {
    }
}

/* The report needs a stack of its own: the fault may be that there is none left. */
__attribute__((naked, used)) static void fault(void)
{
    __asm__ volatile("mov r0, sp\n"
                     "ldr r1, =port_stack_top\n"
                     "mov sp, r1\n"
                     "b fault_report\n"
                     ".ltorg\n");
}

__attribute__((used, noreturn)) static void boot(void)
{
    uint32_t *from = port_data_load;
    for (volatile uint32_t *to = port_data_start; to < port_data_end;)
        *to++ = *from++;
    for (volatile uint32_t *to = port_bss_start; to < port_bss_end;)
        *to++ = 0;
    leave(check_main());
    for (;;) {
    }
}

__attribute__((naked, used)) void port_reset(void)
{
    __asm__ volatile(
        /* CPACR: coprocessors 10 and 11 are the FPU and MVE. */
        "ldr r0, =0xE000ED88\n ldr r1, [r0]\n orr r1, r1, #0xF00000\n str r1, [r0]\n dsb\n isb\n"
#ifdef __ARM_FEATURE_MVE
        /* CCR: low-overhead branches. */
        "ldr r0, =0xE000ED14\n ldr r1, [r0]\n orr r1, r1, #0x80000\n str r1, [r0]\n dsb\n isb\n"
#endif
        "b boot\n"
        ".ltorg\n");
}

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)port_stack_top, port_reset, fault, fault, fault, fault, fault, fault,
    0,                      0,          0,     fault, fault, 0,     fault, fault,
};
