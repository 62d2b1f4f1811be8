/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a driver: it maps the registers and tells the device's version in sysfs. */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#define REGISTERS 0 /* BAR */
#define VS 0x08     /* version: major, minor, tertiary */

static ssize_t version_show(struct device *device, struct device_attribute *attribute, char *text) {
    void __iomem *registers = dev_get_drvdata(device);
    u32 version = readl(registers + VS);

    return sysfs_emit(text, "%u.%u.%u\n", version >> 16, version >> 8 & 0xff, version & 0xff);
}
static DEVICE_ATTR_RO(version);

static struct attribute *first_attrs[] = {&dev_attr_version.attr, NULL};
ATTRIBUTE_GROUPS(first);

static int first_probe(struct pci_dev *pdev, const struct pci_device_id *identity) {
    int error = pcim_enable_device(pdev);

    if (error)
        return error;
    error = pcim_iomap_regions(pdev, BIT(REGISTERS), KBUILD_MODNAME);
    if (error)
        return error;
    pci_set_drvdata(pdev, pcim_iomap_table(pdev)[REGISTERS]);
    return 0;
}

static const struct pci_device_id first_ids[] = {{PCI_DEVICE(0x1414, 0xc003)}, {}};
MODULE_DEVICE_TABLE(pci, first_ids);

static struct pci_driver first_driver = {
    .name = KBUILD_MODNAME,
    .id_table = first_ids,
    .probe = first_probe,
    .dev_groups = first_groups,
};
module_pci_driver(first_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The beginning of a driver");
