/* Two processes on one NPU: the file that RKLLM_SIM_NPU_FILE names is locked by the run that is on it. */
#include "log.h"
#include "session.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* False where the submission fails; a hang never returns. */
static bool collide(const struct session *s)
{
    if (strcmp(s->behaviour.conflict, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(s->behaviour.conflict, "submit") != 0)
        return true;
    log_npu('E', "failed to submit!, op id: 0, op name: MatMul, flags: 0x5, task start: 0, task number: 1");
    return false;
}

bool npu_begin(struct session *s)
{
    const char *path = getenv("RKLLM_SIM_NPU_FILE");
    int file = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return true;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) {
        s->npu = file;
        return ftruncate(file, 0) == 0;
    }
    ssize_t wrote = write(file, "!", 1); /* the run that is there notices it at its next token */
    (void)wrote;
    close(file);
    return collide(s);
}

bool npu_undisturbed(const struct session *s)
{
    struct stat about;
    return s->npu < 0 || fstat(s->npu, &about) != 0 || about.st_size == 0 || collide(s);
}

void npu_end(struct session *s)
{
    if (s->npu >= 0)
        close(s->npu);
    s->npu = -1;
}
