/* Firmware of a Nucleo-F446RE: 64 pixels as int8 codes in on the serial port, the digit out,
 * after a line that says it is ready.
 * USART2 (PA2, PA3) is the board's USB serial port: 115200 baud, from the 16 MHz after reset. */
#include <stdint.h>

#include "digits.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
enum { RECEIVED = 1u << 5, SENT = 1u << 7 };
#define USART2_STATUS REGISTER(0x40004400u)
#define USART2_DATA REGISTER(0x40004404u)

static _Alignas(16) uint8_t arena[DIGITS_ARENA_BYTES];
static int8_t image[DIGITS_IMAGE_ELEMENTS], logits[DIGITS_LOGITS_ELEMENTS];

static void serial_open(void)
{
    REGISTER(0x40023830u) |= 1u;        /* RCC: clock of GPIOA */
    REGISTER(0x40023840u) |= 1u << 17;  /* RCC: clock of USART2 */
    REGISTER(0x40020000u) = (REGISTER(0x40020000u) & ~0xF0u) | 0xA0u;      /* PA2, PA3: alternate */
    REGISTER(0x40020020u) = (REGISTER(0x40020020u) & ~0xFF00u) | 0x7700u;  /* function 7 */
    REGISTER(0x40004408u) = 139u;       /* 16 MHz / 115200 */
    REGISTER(0x4000440Cu) = 0x200Cu;    /* on, send, receive */
}

static int8_t serial_read(void)
{
    while ((USART2_STATUS & RECEIVED) == 0u) {
    }
    return (int8_t)(uint8_t)USART2_DATA;
}

static void serial_write(const char *text)
{
    for (; *text != 0; text++) {
        while ((USART2_STATUS & SENT) == 0u) {
        }
        USART2_DATA = (uint32_t)(uint8_t)*text;
    }
}

int main(void)
{
    serial_open();
    serial_write("ready\n");
    for (;;) {
        for (int i = 0; i < DIGITS_IMAGE_ELEMENTS; i++) { image[i] = serial_read(); }
        if (digits_run(image, logits, arena) != 0) { return 1; }
        int best = 0;
        for (int i = 1; i < DIGITS_LOGITS_ELEMENTS; i++) {
            if (logits[i] > logits[best]) { best = i; }
        }
        serial_write((char[]){(char)('0' + best), '\n', 0});
    }
}
