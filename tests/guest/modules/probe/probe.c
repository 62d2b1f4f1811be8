/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A module that does on loading what a test asks for. */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/string.h>

static char *action = "none";
module_param(action, charp, 0444);

static int __init probe_init(void) {
    pr_info("probe: %s\n", action);
    if (!strcmp(action, "refuse"))
        return -ENXIO;
    if (!strcmp(action, "panic"))
        panic("probe: asked to panic");
    if (!strcmp(action, "oops"))
        *(volatile int *)8 = 1;
    if (!strcmp(action, "sleep"))
        ssleep(3600);
    return 0;
}

static int hang_set(const char *value, const struct kernel_param *parameter) {
    local_irq_disable();
    for (;;)
        cpu_relax();
    return 0;
}

static const struct kernel_param_ops hang_ops = {.set = hang_set};
module_param_cb(hang, &hang_ops, NULL, 0200);

static void __exit probe_exit(void) {}

module_init(probe_init);
module_exit(probe_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Does on loading what a test asks for");
