/* The check program as a Linux process: check.elf IN.BIN OUT.BIN [NAME.weights] */
#include "edgec_port.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* How much stack is painted; far below any default limit. */
#define STACK_BYTES (256u * 1024u)
#define PAINT UINT64_C(0xA5C3F00DA5C3F00D)

static FILE *input, *output;
static uintptr_t stack_top;
const void *port_weights;

size_t port_read(void *to, size_t bytes)
{
    return fread(to, 1, bytes, input);
}

int port_write(const void *from, size_t bytes)
{
    return fwrite(from, 1, bytes, output) == bytes ? 0 : -1;
}

void port_text(const char *line)
{
    fputs(line, stdout);
}

void port_number(const char *key, uint32_t value)
{
    printf("%s %lu\n", key, (unsigned long)value);
}

__attribute__((noinline, used)) void port_window_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline, used)) void port_window_end(void)
{
    __asm__ volatile("" ::: "memory");
}

/* The stack pointer less what a leaf function may use below it. */
static inline uintptr_t free_stack(void)
{
    uintptr_t sp;
#if defined __aarch64__
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
#elif defined __x86_64__
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    return sp - 128;
#else
    sp = (uintptr_t)__builtin_frame_address(0);
    return sp - 256;
#endif
}

/* Downwards, because the kernel grows the stack page by page. */
__attribute__((noinline)) void port_stack_paint(void)
{
    stack_top = free_stack() & ~(uintptr_t)7;
    for (uintptr_t at = stack_top - 8; at >= stack_top - STACK_BYTES; at -= 8)
        *(volatile uint64_t *)at = PAINT;
}

__attribute__((noinline)) uint32_t port_stack_used(void)
{
    uintptr_t at = stack_top - STACK_BYTES;
    while (at < stack_top && *(volatile uint64_t *)at == PAINT)
        at += 8;
    return at == stack_top - STACK_BYTES ? PORT_STACK_OVERFLOW : (uint32_t)(stack_top - at);
}

/* Map a file of constants, as an application does; returns 0, or -1 when it cannot be. */
static int map_weights(const char *path)
{
    struct stat about;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about) != 0)
        return -1;
    void *place = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    port_weights = place;
    return place == MAP_FAILED ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4 || (argc == 4 && map_weights(argv[3]) != 0))
        return CHECK_FILES;
    input = fopen(argv[1], "rb");
    output = fopen(argv[2], "wb");
    if (input == NULL || output == NULL)
        return CHECK_FILES;
    int result = check_main();
    if (fclose(output) != 0 && result == CHECK_OK)
        result = CHECK_WRITE;
    fclose(input);
    return result;
}
