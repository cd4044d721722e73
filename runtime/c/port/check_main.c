/* The check program: runs the model on every sample of the input file.
 *
 * A sample is all inputs in order as raw little-endian bytes; for each the program appends all
 * outputs in order to the output file. The first window is empty (its count is the overhead), then
 * comes one window per sample; each reports "stack N". At the end "arena N". */
#include "edgec_port.h"

#include "check_buffers.h"

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
