/* 1.0.x: only there to be recognised and refused, so its functions say so and fail. */
#include "log.h"
#include "rkllm.h"

#include <string.h>

#define EXPORT __attribute__((visibility("default")))

__attribute__((used)) static const char IDENTITY[] =
    "RKLLM SDK (version: " SIM_VERSION " | target: Linux | build: simulator)";

static int refuse(void)
{
    log_plain("rkllm-runtime version: %s, SIMULATOR: this generation is built for refusal tests only", SIM_VERSION);
    return -1;
}

EXPORT RKLLMParam rkllm_createDefaultParam(void)
{
    RKLLMParam param;
    memset(&param, 0, sizeof param);
    return param;
}

EXPORT int rkllm_init(LLMHandle *handle, RKLLMParam param, LLMResultCallback callback)
{
    (void)handle, (void)param, (void)callback;
    return refuse();
}

EXPORT int rkllm_destroy(LLMHandle handle)
{
    (void)handle;
    return refuse();
}

EXPORT int rkllm_run(LLMHandle handle, const char *prompt, void *userdata)
{
    (void)handle, (void)prompt, (void)userdata;
    return refuse();
}

EXPORT int rkllm_abort(LLMHandle handle)
{
    (void)handle;
    return refuse();
}
