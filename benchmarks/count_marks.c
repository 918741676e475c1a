/* A plugin of QEMU 7.2 and newer: counts the guest's instructions, and prints the count on standard
   error whenever the guest calls sched_yield. Only what is used of qemu-plugin.h is declared. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct info {
    const char *target;
};
enum inline_op { ADD_U64 };
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*called)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum inline_op, void *,
                                                     uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, called);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = 1;
static uint64_t count;
static int64_t sched_yield_number;

static void on_block(plugin_id id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &count, qemu_plugin_tb_n_insns(block));
}

static void on_call(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                    uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number == sched_yield_number)
        fprintf(stderr, "mark %llu\n", (unsigned long long)count);
}

int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv)
{
    sched_yield_number = strcmp(info->target, "aarch64") == 0 ? 124 : 24;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
