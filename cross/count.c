/* Counts the instructions that a program executes under qemu's emulation of user programs: the same for the same work,
 * however slow the emulator is. A plugin of qemu (its interface of version 1); the declarations below are all it needs
 * of it. Built and used by `cargo xtask emulate --count`; the file to write the number to is its argument. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*executed)(unsigned, void *),
                                                 int flags, void *of_block);
extern void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *unused);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t executed;
static char path[4096];

static void on_executed(unsigned processor, void *n_instructions)
{
    (void)processor;
    __atomic_fetch_add(&executed, (uint64_t)(uintptr_t)n_instructions, __ATOMIC_RELAXED);
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void on_end(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%llu\n", (unsigned long long)executed);
        fclose(file);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int n_args, char **args)
{
    (void)info;
    if (n_args != 1 || strncmp(args[0], "out=", 4) != 0 || strlen(args[0] + 4) >= sizeof path) {
        fprintf(stderr, "count: say out=<file>\n");
        return -1;
    }
    strcpy(path, args[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
