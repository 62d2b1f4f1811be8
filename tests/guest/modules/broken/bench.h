/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What the modules of this folder share: a driver of the function that does a little of all that drivers do, rightly.
 *
 * It maps BAR 0, has an interrupt, memory for the device and work of its own, and a file `exercise` of the function in
 * sysfs. A module adds its one mistake in one of the three hooks, which it defines before it includes this file. */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#define BENCH_BAR 0
#define BENCH_VERSION 0x08 /* a register that is never 0 (spec 01 section 3) */
#define BENCH_RING_BYTES 4096

struct bench {
    struct pci_dev *pdev;
    void __iomem *registers;
    void *ring;
    dma_addr_t ring_address;
    spinlock_t lock;
    struct mutex mutex;
    atomic_t interrupts;
};

#ifndef BENCH_ON_BIND
#define BENCH_ON_BIND(bench) ((void)(bench))
#endif
#ifndef BENCH_ON_EXERCISE
#define BENCH_ON_EXERCISE(bench) ((void)(bench))
#endif
#ifndef BENCH_KEEPS_INTERRUPT
#define BENCH_KEEPS_INTERRUPT 0
#endif

static irqreturn_t bench_interrupt(int irq, void *data) {
    struct bench *bench = data;

    atomic_inc(&bench->interrupts);
    return IRQ_HANDLED;
}

/* Map a buffer for the device and unmap it again. */
static int bench_map(struct bench *bench) {
    struct device *device = &bench->pdev->dev;
    dma_addr_t address;
    void *buffer = kzalloc(BENCH_RING_BYTES, GFP_KERNEL);

    if (!buffer)
        return -ENOMEM;
    address = dma_map_single(device, buffer, BENCH_RING_BYTES, DMA_BIDIRECTIONAL);
    if (dma_mapping_error(device, address)) {
        kfree(buffer);
        return -EIO;
    }
    dma_unmap_single(device, address, BENCH_RING_BYTES, DMA_BIDIRECTIONAL);
    kfree(buffer);
    return 0;
}

static ssize_t exercise_store(struct device *device, struct device_attribute *attribute, const char *text,
                              size_t size) {
    struct bench *bench = dev_get_drvdata(device);
    int error;

    mutex_lock(&bench->mutex);
    error = readl(bench->registers + BENCH_VERSION) ? bench_map(bench) : -EIO;
    if (!error)
        BENCH_ON_EXERCISE(bench);
    mutex_unlock(&bench->mutex);
    return error ? error : size;
}
static DEVICE_ATTR_WO(exercise);

static int bench_probe(struct pci_dev *pdev, const struct pci_device_id *identity) {
    struct bench *bench = devm_kzalloc(&pdev->dev, sizeof(*bench), GFP_KERNEL);
    int error;

    if (!bench)
        return -ENOMEM;
    bench->pdev = pdev;
    spin_lock_init(&bench->lock);
    mutex_init(&bench->mutex);
    error = pcim_enable_device(pdev);
    if (error)
        return error;
    error = pcim_iomap_regions(pdev, BIT(BENCH_BAR), KBUILD_MODNAME);
    if (error)
        return error;
    bench->registers = pcim_iomap_table(pdev)[BENCH_BAR];
    error = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
    if (error)
        return error;
    pci_set_master(pdev);
    bench->ring = dma_alloc_coherent(&pdev->dev, BENCH_RING_BYTES, &bench->ring_address, GFP_KERNEL);
    if (!bench->ring)
        return -ENOMEM;
    error = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
    if (error < 0)
        goto free_ring;
    error = request_irq(pci_irq_vector(pdev, 0), bench_interrupt, 0, KBUILD_MODNAME, bench);
    if (error)
        goto free_vectors;
    pci_set_drvdata(pdev, bench);
    error = device_create_file(&pdev->dev, &dev_attr_exercise);
    if (error)
        goto release_irq;
    BENCH_ON_BIND(bench);
    return 0;

release_irq:
    free_irq(pci_irq_vector(pdev, 0), bench);
free_vectors:
    pci_free_irq_vectors(pdev);
free_ring:
    dma_free_coherent(&pdev->dev, BENCH_RING_BYTES, bench->ring, bench->ring_address);
    return error;
}

static void bench_remove(struct pci_dev *pdev) {
    struct bench *bench = pci_get_drvdata(pdev);

    device_remove_file(&pdev->dev, &dev_attr_exercise);
    if (!BENCH_KEEPS_INTERRUPT)
        free_irq(pci_irq_vector(pdev, 0), bench);
    pci_free_irq_vectors(pdev);
    dma_free_coherent(&pdev->dev, BENCH_RING_BYTES, bench->ring, bench->ring_address);
}

static const struct pci_device_id bench_ids[] = {{PCI_DEVICE(0x1414, 0xC003)}, {}};
MODULE_DEVICE_TABLE(pci, bench_ids);

static struct pci_driver bench_driver = {
    .name = KBUILD_MODNAME,
    .id_table = bench_ids,
    .probe = bench_probe,
    .remove = bench_remove,
};
module_pci_driver(bench_driver);
MODULE_LICENSE("GPL");
