/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The HSM node with device information alone, as the Linux driver offers it (spec 02 A.1, A.3, A.4, G).
 *
 * It sends the device nothing: what a driver asks the controller for is made up. All that programs see of the node as a
 * file, and of who may use it, is Linux's own, and that is what this module is for. */
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "azihsm.h"

struct devinfo_function {
    struct pci_dev *pdev;
    struct cdev cdev;
    dev_t number;
    u8 entropy[sizeof_field(struct ihsm_device_info, device_entropy)];
};

struct devinfo_file {
    struct devinfo_function *function;
    pid_t owner;
};

static dev_t devinfo_region;
static DEFINE_IDA(devinfo_minors);
static struct class devinfo_class = {.name = IHSM_HSM_CLASS};

static int devinfo_open(struct inode *inode, struct file *file) {
    struct devinfo_file *context = kzalloc(sizeof(*context), GFP_KERNEL);

    if (!context)
        return -ENOMEM;
    context->function = container_of(inode->i_cdev, struct devinfo_function, cdev);
    context->owner = current->tgid;
    file->private_data = context;
    return 0;
}

static int devinfo_release(struct inode *inode, struct file *file) {
    kfree(file->private_data);
    return 0;
}

static long devinfo_get(struct devinfo_function *function, void __user *argument) {
    struct ihsm_device_info info;

    if (copy_from_user(&info, argument, IHSM_DEVICE_INFO_COPIED))
        return -EFAULT;
    if (info.argsz < sizeof(info))
        return -EINVAL;
    info.id = 0;
    strscpy(info.pci_info, pci_name(function->pdev), sizeof(info.pci_info));
    snprintf(info.serial_num, sizeof(info.serial_num), "%032llx", pci_get_dsn(function->pdev));
    memset(info.model_num, 0, sizeof(info.model_num));
    snprintf(info.firmware_rev, sizeof(info.firmware_rev), "%-32s", "none");
    memset(info.driver_rev, 0, sizeof(info.driver_rev) - 1);
    memcpy(info.driver_rev, IHSM_DRIVER_VERSION, strlen(IHSM_DRIVER_VERSION));
    memcpy(info.device_entropy, function->entropy, sizeof(info.device_entropy));
    return copy_to_user(argument, &info, IHSM_DEVICE_INFO_COPIED) ? -EFAULT : 0;
}

static long devinfo_ioctl(struct file *file, unsigned int number, unsigned long argument) {
    struct devinfo_file *context = file->private_data;

    if (context->owner != current->tgid)
        return -EACCES;
    if (number != IHSM_IOCTL_GET_DEV_INFO)
        return -EBADRQC;
    return devinfo_get(context->function, (void __user *)argument);
}

static const struct file_operations devinfo_operations = {
    .owner = THIS_MODULE,
    .open = devinfo_open,
    .release = devinfo_release,
    .unlocked_ioctl = devinfo_ioctl,
};

static int devinfo_probe(struct pci_dev *pdev, const struct pci_device_id *identity) {
    struct devinfo_function *function = devm_kzalloc(&pdev->dev, sizeof(*function), GFP_KERNEL);
    struct device *node;
    int minor;
    int error;

    if (!function)
        return -ENOMEM;
    minor = ida_alloc_max(&devinfo_minors, IHSM_MINOR_COUNT - 1, GFP_KERNEL);
    if (minor < 0)
        return minor;
    function->pdev = pdev;
    function->number = MKDEV(MAJOR(devinfo_region), minor);
    get_random_bytes(function->entropy, sizeof(function->entropy));
    cdev_init(&function->cdev, &devinfo_operations);
    function->cdev.owner = THIS_MODULE;
    error = cdev_add(&function->cdev, function->number, 1);
    if (error)
        goto free_minor;
    node = device_create(&devinfo_class, &pdev->dev, function->number, NULL, IHSM_HSM_NODE_PREFIX "%d", minor);
    if (IS_ERR(node)) {
        error = PTR_ERR(node);
        goto remove_cdev;
    }
    pci_set_drvdata(pdev, function);
    return 0;

remove_cdev:
    cdev_del(&function->cdev);
free_minor:
    ida_free(&devinfo_minors, minor);
    return error;
}

static void devinfo_remove(struct pci_dev *pdev) {
    struct devinfo_function *function = pci_get_drvdata(pdev);

    device_destroy(&devinfo_class, function->number);
    cdev_del(&function->cdev);
    ida_free(&devinfo_minors, MINOR(function->number));
}

static const struct pci_device_id devinfo_ids[] = {{PCI_DEVICE(0x1414, 0xC003)}, {}};
MODULE_DEVICE_TABLE(pci, devinfo_ids);

static struct pci_driver devinfo_driver = {
    .name = IHSM_DRIVER_NAME,
    .id_table = devinfo_ids,
    .probe = devinfo_probe,
    .remove = devinfo_remove,
};

static int __init devinfo_init(void) {
    int error = alloc_chrdev_region(&devinfo_region, 0, IHSM_MINOR_COUNT, IHSM_HSM_CLASS);

    if (error)
        return error;
    error = class_register(&devinfo_class);
    if (error)
        goto free_region;
    error = pci_register_driver(&devinfo_driver);
    if (error)
        goto remove_class;
    return 0;

remove_class:
    class_unregister(&devinfo_class);
free_region:
    unregister_chrdev_region(devinfo_region, IHSM_MINOR_COUNT);
    return error;
}

static void __exit devinfo_exit(void) {
    pci_unregister_driver(&devinfo_driver);
    class_unregister(&devinfo_class);
    unregister_chrdev_region(devinfo_region, IHSM_MINOR_COUNT);
}

module_init(devinfo_init);
module_exit(devinfo_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Device information of the HSM node, and nothing else");
