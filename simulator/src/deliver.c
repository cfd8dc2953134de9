#include "deliver.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Under AddressSanitizer every result is a block of its own, freed after the callback, so that a late read is
 * reported with its stack. Elsewhere the same block is filled with a pattern: a late read gives wrong text or a
 * crash instead of something that looks right. */
#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

float memory_peak_mb(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    float kb = 0;
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %f", &kb) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return kb / 1024;
}

static void spoil(struct session *s, char *block, size_t size)
{
    memset(block, 0xA5, size - 1);
    if (SANITIZED) {
        free(block);
        s->block = NULL;
        s->block_room = 0;
    }
}

static void drop_output(struct session *s)
{
    free(s->output);
    s->output = NULL;
}

int deliver(struct session *s, void *userdata, LLMCallState state, const struct output *outputs,
            const struct perf *perf)
{
    size_t lanes = (size_t)s->load.batch;
    size_t size = lanes * sizeof(RKLLMResult) + 1;
    for (size_t i = 0; outputs != NULL && i < lanes; i++)
        size += outputs[i].text == NULL ? 0 : outputs[i].len + 1;
    if (SANITIZED)
        s->block = need(malloc(size));
    else
        s->block = grown(s->block, 0, &s->block_room, size, 1);

    char *block = s->block;
    RKLLMResult *results = (RKLLMResult *)block;
    char *text = block + lanes * sizeof *results;
    block[size - 1] = 0;
    memset(results, 0, lanes * sizeof *results);
    drop_output(s);
    for (size_t i = 0; i < lanes; i++) {
        results[i].token_id = -1;
        if (outputs == NULL)
            continue;
        const struct output *output = &outputs[i];
        results[i].token_id = output->token;
        if (output->text != NULL) {
            memcpy(text, output->text, output->len);
            text[output->len] = 0;
            results[i].text = text;
            text += output->len + 1;
        }
        if (output->rows != NULL && !output->logits) {
            results[i].last_hidden_layer.hidden_states = output->rows;
            results[i].last_hidden_layer.embd_size = output->width;
            results[i].last_hidden_layer.num_tokens = output->count;
        }
#if RKLLM_GEN >= RKLLM_G3
        if (output->rows != NULL && output->logits) {
            results[i].logits.logits = output->rows;
            results[i].logits.vocab_size = output->width;
            results[i].logits.num_tokens = output->count;
        }
#endif
    }
    if (outputs != NULL)
        s->output = outputs[0].rows;
#if RKLLM_GEN >= RKLLM_G4
    if (perf != NULL)
        results[0].perf = (RKLLMPerfStat){
            .prefill_time_ms = (float)perf->prefill_ms,
            .prefill_tokens = perf->prefill_tokens,
            .generate_time_ms = (float)perf->generate_ms,
            .generate_tokens = perf->generate_tokens,
            .memory_usage_mb = memory_peak_mb(),
        };
#else
    (void)perf;
#endif
#if RKLLM_GEN >= RKLLM_G5
    if (userdata == NULL)
        userdata = s->callbacks.userdata;
#endif
#if RKLLM_GEN >= RKLLM_G4
    int answer = s->callbacks.result(results, userdata, state);
#else
    s->callbacks.result(results, userdata, state);
    int answer = 0;
#endif
    spoil(s, block, size);
    if (answer < 0 || answer > (RKLLM_GEN >= RKLLM_G5 ? 2 : 1)) {
        log_canary("the callback returned %d, expected 0 to %d", answer, RKLLM_GEN >= RKLLM_G5 ? 2 : 1);
        return 0;
    }
    if (answer == 2)
        drop_output(s);
    return answer == 1;
}

void deliver_free(struct session *s)
{
    free(s->block);
    s->block = NULL;
    s->block_room = 0;
    drop_output(s);
}
