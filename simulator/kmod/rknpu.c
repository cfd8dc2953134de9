// SPDX-License-Identifier: GPL-2.0-only
/*
 * An NPU driver without an NPU: what user space sees of Rockchip's rknpu 0.9.8, on any machine whose device tree has
 * the vendor's node. It binds as RKNPU and shows card and render node, /dev/rknpu (misc=1), debugfs and devfreq; no
 * register is touched. A test says how busy the cores are: echo 10,20,30 > /sys/module/rknpu/parameters/load
 */
#include <linux/debugfs.h>
#include <linux/devfreq.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/platform_device.h>
#include <linux/pm_opp.h>
#include <linux/pm_runtime.h>
#include <linux/property.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_gem.h>
#include <drm/drm_ioctl.h>

#define MOST_CORES 3
#define STEPS 8
/* The vendor's driver leaves the NPU powered for so long after its last use. */
#define POWER_OFF_DELAY_MS 3000

static int load[MOST_CORES];
module_param_array(load, int, NULL, 0644);
MODULE_PARM_DESC(load, "what the debugfs file `load` says of each core, in percent");

static bool misc;
module_param(misc, bool, 0444);
MODULE_PARM_DESC(misc, "also make /dev/rknpu, as the vendor's DMA_HEAP build does");

/* One row a chip of the vendor's match table. */
struct chip {
	unsigned int cores;
	unsigned long megahertz[STEPS];
};

static const struct chip rk3588 = { 3, { 300, 400, 500, 600, 700, 800, 900, 1000 } };
static const struct chip rk3576 = { 2, { 300, 400, 500, 600, 700, 800, 900, 950 } };
static const struct chip rk3568 = { 1, { 200, 300, 400, 600, 700, 800, 900, 1000 } };
static const struct chip rk3562 = { 1, { 300, 400, 500, 600, 700, 800, 900, 1000 } };

struct npu {
	struct device *dev;
	const struct chip *chip;
	struct drm_device *drm;
	struct miscdevice misc;
	struct dentry *debugfs;
	struct devfreq_dev_profile profile;
	unsigned long steps[STEPS];
	unsigned long hertz;
};

/* ── questions of user space ─────────────────────────────────────────────────────────────────── */

struct action {
	__u32 flags;
	__u32 value;
};

enum { GET_HARDWARE_VERSION = 0, GET_DRIVER_VERSION = 1 };

#define ACTION_MISC _IOWR('r', 0, struct action)
#define ACTION_DRM DRM_IOWR(DRM_COMMAND_BASE, struct action)

static int answer(struct action *action)
{
	switch (action->flags) {
	case GET_HARDWARE_VERSION:
		action->value = 0x46495245;
		return 0;
	case GET_DRIVER_VERSION:
		action->value = 908;
		return 0;
	default:
		return -EINVAL;
	}
}

static long misc_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	struct action action;
	int error;

	if (command != ACTION_MISC)
		return -ENOTTY;
	if (copy_from_user(&action, user, sizeof(action)))
		return -EFAULT;
	error = answer(&action);
	if (error)
		return error;
	return copy_to_user(user, &action, sizeof(action)) ? -EFAULT : 0;
}

static const struct file_operations misc_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = misc_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int drm_action(struct drm_device *drm, void *data, struct drm_file *file)
{
	return answer(data);
}

static const struct drm_ioctl_desc drm_ioctls[] = {
	{ .cmd = ACTION_DRM, .func = drm_action, .flags = DRM_RENDER_ALLOW, .name = "RKNPU_ACTION" },
};

DEFINE_DRM_GEM_FOPS(drm_operations);

static const struct drm_driver drm_driver = {
	.driver_features = DRIVER_GEM | DRIVER_RENDER,
	.fops = &drm_operations,
	.ioctls = drm_ioctls,
	.num_ioctls = ARRAY_SIZE(drm_ioctls),
	.name = "rknpu",
	.desc = "RKNPU driver",
	.major = 0,
	.minor = 9,
	.patchlevel = 8,
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
	.date = "20240828",
#endif
};

/* ── debugfs, in the vendor's words ──────────────────────────────────────────────────────────── */

static int version_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "RKNPU driver: v0.9.8\n");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(version);

static int load_show(struct seq_file *file, void *unused)
{
	struct npu *npu = file->private;
	unsigned int core;

	if (npu->chip->cores == 1) {
		seq_printf(file, "NPU load: %2d%%\n", load[0]);
		return 0;
	}
	seq_puts(file, "NPU load: ");
	for (core = 0; core < npu->chip->cores; core++)
		seq_printf(file, " Core%u: %2d%%,", core, load[core]);
	seq_putc(file, '\n');
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(load);

static int power_show(struct seq_file *file, void *unused)
{
	struct npu *npu = file->private;

	seq_puts(file, pm_runtime_active(npu->dev) ? "on\n" : "off\n");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(power);

/* Reading this powers the NPU up, in the vendor's driver and here: whoever reads it in a loop is seen to. */
static int freq_show(struct seq_file *file, void *unused)
{
	struct npu *npu = file->private;
	int error = pm_runtime_resume_and_get(npu->dev);

	if (error)
		return error;
	seq_printf(file, "%lu\n", npu->hertz);
	pm_runtime_mark_last_busy(npu->dev);
	pm_runtime_put_autosuspend(npu->dev);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(freq);

static int volt_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "800000\n");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(volt);

static int delayms_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "%d\n", POWER_OFF_DELAY_MS);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(delayms);

static int reset_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "on\n");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(reset);

static const struct {
	const char *name;
	const struct file_operations *operations;
} debugfs_files[] = {
	{ "version", &version_fops }, { "load", &load_fops },       { "power", &power_fops }, { "freq", &freq_fops },
	{ "volt", &volt_fops },       { "delayms", &delayms_fops }, { "reset", &reset_fops },
};

/* ── devfreq ─────────────────────────────────────────────────────────────────────────────────── */

static int clock_set(struct device *dev, unsigned long *hertz, u32 flags)
{
	struct npu *npu = dev_get_drvdata(dev);

	npu->hertz = *hertz;
	return 0;
}

static int clock_get(struct device *dev, unsigned long *hertz)
{
	struct npu *npu = dev_get_drvdata(dev);

	*hertz = npu->hertz;
	return 0;
}

static void add_devfreq(struct npu *npu)
{
	struct devfreq *devfreq;
	unsigned int step;

	for (step = 0; step < STEPS; step++) {
		npu->steps[step] = npu->chip->megahertz[step] * 1000000;
		if (dev_pm_opp_add(npu->dev, npu->steps[step], 700000 + 25000 * step))
			dev_warn(npu->dev, "no operating point at %lu Hz\n", npu->steps[step]);
	}
	npu->hertz = npu->steps[STEPS - 1];
	npu->profile = (struct devfreq_dev_profile){
		.initial_freq = npu->hertz,
		.target = clock_set,
		.get_cur_freq = clock_get,
		.freq_table = npu->steps,
		.max_state = STEPS,
	};
	devfreq = devm_devfreq_add_device(npu->dev, &npu->profile, DEVFREQ_GOV_USERSPACE, NULL);
	if (IS_ERR(devfreq))
		dev_warn(npu->dev, "no devfreq: %ld\n", PTR_ERR(devfreq));
}

/* ── the device comes and goes ───────────────────────────────────────────────────────────────── */

static int add_drm(struct npu *npu)
{
	int error;

	npu->drm = drm_dev_alloc(&drm_driver, npu->dev);
	if (IS_ERR(npu->drm))
		return PTR_ERR(npu->drm);
	error = drm_dev_register(npu->drm, 0);
	if (error)
		drm_dev_put(npu->drm);
	return error;
}

static int add_misc(struct npu *npu)
{
	npu->misc = (struct miscdevice){ .minor = MISC_DYNAMIC_MINOR, .name = "rknpu", .fops = &misc_operations };
	return misc ? misc_register(&npu->misc) : 0;
}

static void add_debugfs(struct npu *npu)
{
	unsigned int index;

	npu->debugfs = debugfs_create_dir("rknpu", NULL);
	for (index = 0; index < ARRAY_SIZE(debugfs_files); index++)
		debugfs_create_file(debugfs_files[index].name, 0444, npu->debugfs, npu, debugfs_files[index].operations);
}

static int npu_probe(struct platform_device *pdev)
{
	struct npu *npu = devm_kzalloc(&pdev->dev, sizeof(*npu), GFP_KERNEL);
	int error;

	if (!npu)
		return -ENOMEM;
	npu->dev = &pdev->dev;
	npu->chip = device_get_match_data(&pdev->dev);
	platform_set_drvdata(pdev, npu);
	error = add_misc(npu);
	if (error)
		return error;
	error = add_drm(npu);
	if (error)
		goto without_drm;
	pm_runtime_set_autosuspend_delay(npu->dev, POWER_OFF_DELAY_MS);
	pm_runtime_use_autosuspend(npu->dev);
	pm_runtime_enable(npu->dev);
	add_devfreq(npu);
	add_debugfs(npu);
	dev_info(npu->dev, "RKNPU: exo-rkllm's stand-in for the driver v0.9.8, there is no NPU behind it\n");
	return 0;

without_drm:
	if (misc)
		misc_deregister(&npu->misc);
	return error;
}

static void npu_unbind(struct platform_device *pdev)
{
	struct npu *npu = platform_get_drvdata(pdev);

	debugfs_remove_recursive(npu->debugfs);
	pm_runtime_dont_use_autosuspend(npu->dev);
	pm_runtime_disable(npu->dev);
	drm_dev_unplug(npu->drm);
	drm_dev_put(npu->drm);
	if (misc)
		misc_deregister(&npu->misc);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int npu_remove(struct platform_device *pdev)
{
	npu_unbind(pdev);
	return 0;
}
#else
#define npu_remove npu_unbind
#endif

static int npu_power(struct device *dev)
{
	return 0;
}
static DEFINE_RUNTIME_DEV_PM_OPS(npu_pm, npu_power, npu_power, NULL);

static const struct of_device_id npu_match[] = {
	{ .compatible = "rockchip,rk3562-rknpu", .data = &rk3562 },
	{ .compatible = "rockchip,rk3568-rknpu", .data = &rk3568 },
	{ .compatible = "rockchip,rk3576-rknpu", .data = &rk3576 },
	{ .compatible = "rockchip,rk3588-rknpu", .data = &rk3588 },
	{}
};
MODULE_DEVICE_TABLE(of, npu_match);

static struct platform_driver npu_driver = {
	.probe = npu_probe,
	.remove = npu_remove,
	.driver = { .name = "RKNPU", .of_match_table = npu_match, .pm = pm_ptr(&npu_pm) },
};
module_platform_driver(npu_driver);

MODULE_SOFTDEP("pre: governor_userspace");
MODULE_DESCRIPTION("Rockchip's NPU driver as user space sees it, without an NPU");
MODULE_VERSION("0.9.8");
MODULE_LICENSE("GPL");
