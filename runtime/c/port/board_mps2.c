/* An example board for edgec_serial.c: Arm's MPS2 and MPS3 boards with the CMSDK UART, as QEMU has
 * them. Linked with port_cortex_m.c, whose start-up code calls check_main. */
#include "edgec_port.h"
#include "edgec_serial.h"

#if BOARD_MPS2_AN505
#define UART 0x40200000u
#elif BOARD_MPS3_AN547
#define UART 0x49303000u
#else
#define UART 0x40004000u
#endif

#define REGISTER(offset) (*(volatile uint32_t *)(UART + (offset)))
enum { DATA = 0x0, STATE = 0x4, CONTROL = 0x8, DIVIDER = 0x10 };
enum { SENDING = 1u, RECEIVED = 2u, ENABLE_BOTH = 3u, LEAST_DIVIDER = 16u };

/* Under QEMU every look at a register takes the lock that the thread which delivers the bytes
 * needs: without a pause between looks it gets none on a busy machine. */
static void pause(void)
{
    for (volatile int i = 0; i < 1000; i++) {
    }
}

int board_getchar(void)
{
    if (REGISTER(STATE) & RECEIVED)
        return (int)(REGISTER(DATA) & 0xFFu);
    pause();
    return -1;
}

void board_putchar(uint8_t byte)
{
    while (REGISTER(STATE) & SENDING) {
    }
    REGISTER(DATA) = byte;
}

int check_main(void)
{
    REGISTER(DIVIDER) = LEAST_DIVIDER;
    REGISTER(CONTROL) = ENABLE_BOTH;
    edgec_serial_serve();
    return CHECK_OK;
}
