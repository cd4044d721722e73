/* One inference: int8 image on stdin, int8 logits on stdout. */
#include <stdio.h>

#include "digits.h"

static _Alignas(16) uint8_t arena[DIGITS_ARENA_BYTES];
static int8_t image[DIGITS_IMAGE_ELEMENTS], logits[DIGITS_LOGITS_ELEMENTS];

int main(void)
{
    if (fread(image, sizeof image, 1, stdin) != 1) { return 1; }
    if (digits_run(image, logits, arena) != 0) { return 2; }
    return (fwrite(logits, sizeof logits, 1, stdout) == 1) ? 0 : 3;
}
