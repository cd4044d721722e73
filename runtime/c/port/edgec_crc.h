/* CRC-32 (IEEE 802.3, reflected), as in zlib: edgec_crc32(0, data, bytes), or after an earlier one. */
#ifndef EDGEC_CRC_H
#define EDGEC_CRC_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t edgec_crc32(uint32_t so_far, const void *data, size_t bytes)
{
    static const uint32_t of_nibble[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
        0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
        0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    uint32_t crc = ~so_far;
    for (const uint8_t *at = (const uint8_t *)data; bytes > 0; bytes--) {
        crc ^= *at++;
        crc = (crc >> 4) ^ of_nibble[crc & 15u];
        crc = (crc >> 4) ^ of_nibble[crc & 15u];
    }
    return ~crc;
}

#endif
