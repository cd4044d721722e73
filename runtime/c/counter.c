/* Exact instruction counter: a QEMU TCG plugin (API version 1, QEMU 6.0 to 8.1).
 *
 * Arguments: begin=ADDRESS end=ADDRESS out=FILE [hist=1]
 * A window opens when the instruction at `begin` executes and closes when the one at `end` does.
 * For each window FILE gets the line "window TOTAL"; with hist=1 a line "  ADDRESS COUNT" follows
 * for every address executed in it. The last line is "end WINDOWS".
 *
 * Distributions ship no plugin header, so the functions used are declared here. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct instruction *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct instruction *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct instruction *,
                                                   void (*)(unsigned, void *), int, void *);

#define EXPORT __attribute__((visibility("default")))
#define INLINE_ADD 0
#define NO_REGISTERS 0

EXPORT int qemu_plugin_version = 1;

#define SLOTS (1u << 16)
struct counter {
    uint64_t address, count;
    struct counter *next;
};

static struct counter *table[SLOTS];
static uint64_t begin_address, end_address, total;
static unsigned windows;
static bool histogram, is_open;
static FILE *out;

static struct counter *counter_of(uint64_t address)
{
    struct counter **slot = &table[(uint32_t)((address >> 1) * 0x9E3779B1u) % SLOTS];
    for (struct counter *c = *slot; c != NULL; c = c->next)
        if (c->address == address)
            return c;
    struct counter *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        abort();
    fresh->address = address;
    fresh->next = *slot;
    return *slot = fresh;
}

static void on_begin(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    for (size_t i = 0; histogram && i < SLOTS; i++)
        for (struct counter *c = table[i]; c != NULL; c = c->next)
            c->count = 0;
    is_open = true;
    total = 0;
}

static void print_histogram(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        for (struct counter *c = table[i]; c != NULL; c = c->next)
            if (c->count != 0)
                fprintf(out, "  %llx %llu\n", (unsigned long long)c->address,
                        (unsigned long long)c->count);
}

static void on_end(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    uint64_t counted = total;
    if (!is_open)
        return;
    is_open = false;
    windows++;
    fprintf(out, "window %llu\n", (unsigned long long)counted);
    if (histogram)
        print_histogram();
    fflush(out);
}

static void on_translate(plugin_id id, struct block *block)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < count; i++) {
        struct instruction *insn = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        if (address == begin_address)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_begin, NO_REGISTERS, NULL);
        if (address == end_address)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_end, NO_REGISTERS, NULL);
        qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD, &total, 1);
        if (histogram)
            qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD,
                                                       &counter_of(address)->count, 1);
    }
}

static void on_exit_qemu(plugin_id id, void *unused)
{
    (void)id, (void)unused;
    fprintf(out, "end %u\n", windows);
    fclose(out);
}

static bool set_option(const char *key, const char *value)
{
    if (strcmp(key, "begin") == 0)
        begin_address = strtoull(value, NULL, 0);
    else if (strcmp(key, "end") == 0)
        end_address = strtoull(value, NULL, 0);
    else if (strcmp(key, "hist") == 0)
        histogram = strcmp(value, "1") == 0 || strcmp(value, "on") == 0;
    else if (strcmp(key, "out") == 0)
        return (out = fopen(value, "w")) != NULL;
    else
        return false;
    return true;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **options)
{
    (void)info;
    for (int i = 0; i < count; i++) {
        char *value = strchr(options[i], '=');
        if (value == NULL)
            return -1;
        *value++ = 0;
        if (!set_option(options[i], value))
            return -1;
    }
    if (out == NULL)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_atexit_cb(id, on_exit_qemu, NULL);
    return 0;
}
