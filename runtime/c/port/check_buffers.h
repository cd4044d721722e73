/* The inputs, outputs and arena of one model with guard bytes behind each; for one C file only.
 *
 * check_ports.h is generated per model and defines:
 *   CHECK_ARENA_BYTES         bytes of the arena
 *   CHECK_INPUTS(PORT)        PORT(type, name, elements) for every input, in order
 *   CHECK_OUTPUTS(PORT)       the same for every output
 *   CHECK_RUN(arena)          the call of the model on buffer_<name>.data and arena
 *   CHECK_NAME, CHECK_MODEL_ID  the name, and a number that tells one model from another */
#ifndef CHECK_BUFFERS_H
#define CHECK_BUFFERS_H

#include <stddef.h>
#include <stdint.h>

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

/* The name of a buffer that was written past its end, or NULL. */
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

#endif
