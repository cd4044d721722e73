/* A model on a real board, checked over a serial line by `edgec check OUT --device serial:PORT`.
 *
 * Compile edgec_serial.c of this folder into a firmware that sets up clocks and a UART, supply
 * the two functions below, and call edgec_serial_serve() from main. No heap, no interrupts. */
#ifndef EDGEC_SERIAL_H
#define EDGEC_SERIAL_H

#include <stdint.h>

/* Supplied by the board. */
int board_getchar(void);          /* the next byte received, or -1 while there is none */
void board_putchar(uint8_t byte); /* send a byte; may wait */

/* Optional: a counter that runs (cycles or timer ticks), and how often it ticks. Without them a
 * check reports no time. An inference must take less than 2^32 ticks. */
uint32_t board_ticks(void);
uint32_t board_ticks_per_second(void);

/* Answer requests for ever. */
void edgec_serial_serve(void);

#endif
