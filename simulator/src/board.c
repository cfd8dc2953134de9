#include "board.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct soc {
    const char *compatible; /* (npu-platform 1.2, 1.3; rkllm-runtime 5.2) after "rockchip,", before a bin letter */
    const char *name;
    int cpus;
    int cores;
} SOCS[] = {
    {"rk3588", "RK3588", 8, 3},   {"rk3582", "RK3588", 8, 3}, {"rk3583", "RK3588", 8, 2}, {"rk3576", "RK3576", 8, 2},
    {"rv1126b", "RV1126B", 4, 1}, {"rk3562", "RK3562", 4, 1}, {"rk3566", "lite", 0, 1},   {"rk3568", "lite", 0, 1},
};

static size_t slurp(const char *under_root, char *into, size_t room)
{
    const char *root = getenv("RKLLM_SIM_ROOT");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root == NULL ? "" : root, under_root);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return 0;
    size_t got = fread(into, 1, room - 1, file);
    fclose(file);
    into[got] = 0;
    return got;
}

/* An entry is a SoC only when nothing but a bin letter and a digit follows: "rockchip,rk3588s-orangepi-5" is a board. */
static const struct soc *soc_named(const char *entry)
{
    if (strncmp(entry, "rockchip,", 9) != 0)
        return NULL;
    entry += 9;
    for (size_t i = 0; i < sizeof SOCS / sizeof *SOCS; i++) {
        size_t len = strlen(SOCS[i].compatible);
        if (strncmp(entry, SOCS[i].compatible, len) != 0)
            continue;
        const char *rest = entry + len;
        if (*rest >= 'a' && *rest <= 'z')
            rest++;
        if (*rest >= '0' && *rest <= '9')
            rest++;
        if (*rest == 0)
            return &SOCS[i];
    }
    return NULL;
}

struct board board_read(void)
{
    struct board board = {.soc = "UNKNOWN_PLATFORM"};
    char text[1024];

    size_t len = slurp("sys/firmware/devicetree/base/compatible", text, sizeof text);
    for (size_t at = 0; at < len; at += strlen(text + at) + 1) {
        const struct soc *soc = soc_named(text + at);
        if (soc != NULL) {
            snprintf(board.soc, sizeof board.soc, "%s", soc->name);
            board.cpus = soc->cpus;
            board.cores = soc->cores;
            break;
        }
    }
    if (slurp("sys/module/rknpu/version", text, sizeof text) > 0) {
        text[strcspn(text, " \r\n")] = 0;
        snprintf(board.driver, sizeof board.driver, "%.31s", text);
    }
    return board;
}

void board_show_load(const struct board *board, bool busy)
{
    const char *path = getenv("RKLLM_SIM_LOAD_FILE");
    int file = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    char line[128] = "NPU load:";
    size_t used = strlen(line);
    for (int core = 0; core < board->cores; core++) {
        int load = busy ? 67 + core : 0; /* a decoding RK3588 shows 65 to 70 % (npu-platform 3.2) */
        if (board->cores > 1)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s Core%d: %2d%%,", core == 0 ? " " : "", core, load);
        else
            used += (size_t)snprintf(line + used, sizeof line - used, " %2d%%", load);
    }
    line[used++] = '\n';
    /* Busy and idle lines have the same length: a reader never sees a half or an empty one. */
    ssize_t wrote = write(file, line, used);
    (void)wrote;
    close(file);
}

int version_compare(const char *a, const char *b)
{
    int left[3] = {0}, right[3] = {0};
    sscanf(a, "%d.%d.%d", &left[0], &left[1], &left[2]);
    sscanf(b, "%d.%d.%d", &right[0], &right[1], &right[2]);
    for (int i = 0; i < 3; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}
