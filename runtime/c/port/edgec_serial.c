/* The board's end of the serial protocol; the host's is runtime/devices/serial_link.py.
 *
 * The host asks, the board answers; nothing else is sent. A frame is COBS between zero bytes:
 * type, sequence number, payload, CRC-32 of these; little-endian, at most FRAME_BYTES before COBS.
 * A frame that is damaged is not answered: the host asks again. The same sequence number twice
 * means that the answer was lost: it is sent again and nothing is done twice. */
#include "edgec_serial.h"

#include "check_buffers.h"
#include "edgec_crc.h"

enum { PROTOCOL_VERSION = 1, FRAME_BYTES = 250, HEADER_BYTES = 2, CRC_BYTES = 4 };
enum { ASK_HELLO = 1, ASK_WRITE = 2, ASK_RUN = 3, ASK_READ = 4, ANSWER = 0x80, REFUSED = 0xFF };
enum { NO_STACK_MEASURED = -1 };

/* Optional parts of a port. */
__attribute__((weak)) uint32_t board_ticks(void);
__attribute__((weak)) uint32_t board_ticks_per_second(void);
__attribute__((weak)) void port_stack_paint(void);
__attribute__((weak)) uint32_t port_stack_used(void);

/* Bytes of a frame: as received, then decoded in place; and the last answer. */
static uint8_t request[FRAME_BYTES + 2], answer[FRAME_BYTES];
static size_t answer_bytes;

static void put_u32(size_t at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        answer[at + (size_t)i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Decode COBS in place; returns the bytes, or 0 when the frame is damaged. */
static size_t decode(uint8_t *frame, size_t bytes)
{
    size_t from = 0, to = 0;
    while (from < bytes) {
        size_t code = frame[from++];
        if (code == 0 || from + code - 1 > bytes)
            return 0;
        for (size_t i = 1; i < code; i++)
            frame[to++] = frame[from++];
        if (code < 0xFF && from < bytes)
            frame[to++] = 0;
    }
    return to;
}

/* Send the answer with its CRC: runs of bytes that are not zero, each after its length + 1. */
static void send_answer(void)
{
    uint32_t crc = edgec_crc32(0, answer, answer_bytes - CRC_BYTES);
    put_u32(answer_bytes - CRC_BYTES, crc);
    board_putchar(0);
    for (size_t at = 0; at <= answer_bytes;) {
        size_t end = at;
        while (end < answer_bytes && answer[end] != 0)
            end++;
        board_putchar((uint8_t)(end - at + 1));
        while (at < end)
            board_putchar(answer[at++]);
        at++;
    }
    board_putchar(0);
}

/* Copy between `data` and the ports laid end to end, from `offset` on; returns bytes copied. */
static size_t transfer(int to_inputs, size_t offset, uint8_t *data, size_t bytes)
{
    size_t start = 0, done = 0;
#define COPY(type, name, elements)                                                                \
    for (size_t at = offset + done; done < bytes && at < start + sizeof buffer_##name.data; at++) {  \
        uint8_t *port = (uint8_t *)buffer_##name.data + (at - start);                              \
        if (to_inputs)                                                                             \
            *port = data[done++];                                                                  \
        else                                                                                       \
            data[done++] = *port;                                                                  \
    }                                                                                              \
    start += sizeof buffer_##name.data;
    if (to_inputs) {
        CHECK_INPUTS(COPY)
    } else {
        CHECK_OUTPUTS(COPY)
    }
    return done;
}

#define SIZE(type, name, elements) +sizeof buffer_##name.data

static size_t add_text(size_t at, const char *text)
{
    while (*text != 0 && at < FRAME_BYTES - CRC_BYTES)
        answer[at++] = (uint8_t)*text++;
    return at;
}

static size_t hello(size_t at)
{
    put_u32(at, PROTOCOL_VERSION);
    put_u32(at + 4, CHECK_MODEL_ID);
    put_u32(at + 8, (uint32_t)(0 CHECK_INPUTS(SIZE)));
    put_u32(at + 12, (uint32_t)(0 CHECK_OUTPUTS(SIZE)));
    put_u32(at + 16, board_ticks && board_ticks_per_second ? board_ticks_per_second() : 0);
    return add_text(at + 20, CHECK_NAME);
}

/* Run once: the payload is the pattern for arena and outputs. Answers status, ticks, stack, and
 * the name of an overrun buffer. */
static size_t run(size_t at, uint8_t pattern)
{
    poison(pattern);
    int measured = port_stack_paint && port_stack_used;
    if (measured)
        port_stack_paint();
    uint32_t start = board_ticks ? board_ticks() : 0;
    int32_t status = CHECK_RUN(buffer_arena.data);
    uint32_t ticks = board_ticks ? board_ticks() - start : 0;
    put_u32(at, (uint32_t)status);
    put_u32(at + 4, ticks);
    put_u32(at + 8, measured ? port_stack_used() : (uint32_t)NO_STACK_MEASURED);
    const char *past = overrun();
    return add_text(at + 12, past ? past : "");
}

/* Fill in the answer to a request of `bytes` of payload; returns where it ends, 0 to refuse. */
static size_t respond(uint8_t type, const uint8_t *payload, size_t bytes)
{
    size_t at = HEADER_BYTES, most = FRAME_BYTES - HEADER_BYTES - CRC_BYTES;
    if (type == ASK_HELLO && bytes == 0)
        return hello(at);
    if (type == ASK_RUN && bytes == 1)
        return run(at, payload[0]);
    if (type == ASK_WRITE && bytes > 4) {
        size_t done = transfer(1, get_u32(payload), (uint8_t *)payload + 4, bytes - 4);
        return done == bytes - 4 ? at : 0;
    }
    if (type == ASK_READ && bytes == 5 && payload[4] <= most) {
        size_t done = transfer(0, get_u32(payload), answer + at, payload[4]);
        return done == payload[4] ? at + done : 0;
    }
    return 0;
}

/* Answer a frame of `bytes` as it came; a damaged one is passed over. */
static void handle(size_t bytes)
{
    size_t length = decode(request, bytes);
    if (length < HEADER_BYTES + CRC_BYTES)
        return;
    length -= CRC_BYTES;
    if (edgec_crc32(0, request, length) != get_u32(request + length))
        return;
    uint8_t type = request[0];
    int again = answer_bytes != 0 && answer[1] == request[1] && answer[0] == (type | ANSWER);
    if (!again) {
        size_t end = respond(type, request + HEADER_BYTES, length - HEADER_BYTES);
        answer[0] = end != 0 ? type | ANSWER : REFUSED;
        answer[1] = request[1];
        answer_bytes = (end != 0 ? end : HEADER_BYTES) + CRC_BYTES;
    }
    send_answer();
}

void edgec_serial_serve(void)
{
    for (size_t bytes = 0;;) {
        int byte = board_getchar();
        if (byte > 0 && bytes < sizeof request) {
            request[bytes++] = (uint8_t)byte;
        } else if (byte >= 0) { /* the end of a frame, or one that is too long */
            if (byte == 0 && bytes > 0)
                handle(bytes);
            bytes = 0;
        }
    }
}
