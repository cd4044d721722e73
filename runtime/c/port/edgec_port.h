/* What the check program (check_main.c) needs from the machine it runs on.
 *
 * A port supplies these functions and the entry point, which calls check_main() and exits with
 * its result. Everything here runs outside the counted windows. */
#ifndef EDGEC_PORT_H
#define EDGEC_PORT_H

#include <stddef.h>
#include <stdint.h>

/* Exit codes of the check program. */
enum {
    CHECK_OK = 0,
    CHECK_TRUNCATED = 2, /* in.bin ends inside a sample */
    CHECK_STATUS = 3,    /* the model returned something other than 0 */
    CHECK_OVERRUN = 4,   /* the model wrote past a buffer */
    CHECK_WRITE = 5,     /* out.bin could not be written */
    CHECK_STACK = 6,     /* the model used more stack than is measured */
    CHECK_FILES = 7,     /* a file could not be opened */
    PORT_FAULT = 99      /* the processor trapped */
};

int check_main(void);

/* The model's file of constants, where the port can map one; else there is no such variable. */
extern const void *port_weights;

/* Read up to `bytes` of the input file; returns how many came. */
size_t port_read(void *to, size_t bytes);
/* Append to the output file; returns 0, or -1 when it failed. */
int port_write(const void *from, size_t bytes);

/* Report a line of text, or a line "key value". */
void port_text(const char *line);
void port_number(const char *key, uint32_t value);

/* A window is everything executed between these two calls; the emulator's counter watches their
 * addresses. */
void port_window_begin(void);
void port_window_end(void);

/* Fill the free stack with a pattern; later tell how many bytes below the caller were used. When
 * the last painted word was used too, the answer is PORT_STACK_OVERFLOW. */
#define PORT_STACK_OVERFLOW UINT32_MAX
void port_stack_paint(void);
uint32_t port_stack_used(void);

#endif
