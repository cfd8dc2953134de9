/* What the library learns of the board: the SoC from the device tree, the driver from its module. */
#ifndef SIM_BOARD_H
#define SIM_BOARD_H

#include <stdbool.h>

struct board {
    char soc[32];     /* as the log names it: RK3588, RK3576, RV1126B, RK3562, lite, UNKNOWN_PLATFORM */
    char driver[32];  /* "0.9.8"; empty when the module is absent */
    int cpus;         /* CPUs the SoC has, 0 when it is no supported one */
    int cores;        /* NPU cores */
};

struct board board_read(void);
void board_show_load(const struct board *board, bool busy); /* into RKLLM_SIM_LOAD_FILE, as rknpu's debugfs file */
int version_compare(const char *a, const char *b); /* by the numbers, so that 1.10 is newer than 1.9 */

#endif
