/* What a layered build of a model notes after every call of a kernel: a CRC of what the call wrote
 * (edgec_crc32) and how long it took. The model as shipped contains nothing of this. */
#ifndef EDGEC_LAYERS_H
#define EDGEC_LAYERS_H

#include "edgec_crc.h"

void edgec_layer_start(void);
/* Returns the ticks since the start: nanoseconds on Linux, else of board_ticks; 0 without a clock. */
int32_t edgec_layer_stop(void);

#endif
