#include "behaviour.h"

#include "board.h"
#include "bytes.h"

#include <stdlib.h>
#include <string.h>

static struct text text_of(const struct model *model, const char *key, const char *otherwise)
{
    struct text text = {0};
    text.at = model_text(model, key, &text.len);
    if (text.at == NULL) {
        text.at = copied(otherwise);
        text.len = strlen(otherwise);
    }
    return text;
}

/* What was measured on one version and is known to be otherwise on another. */
#define BEFORE(version) (version_compare(SIM_VERSION, version) < 0)
#define IS(version) (version_compare(SIM_VERSION, version) == 0)

/* On 1.2.3 and RK3576 hidden and logits runs had no FINISH (row 10: ORK, A); the platform is rkllm.platform's number. */
#define RK3576 1

/* What 1.2.3 makes of DeepSeek-R1-Distill-Qwen-1.5B (rknn-llm issue 467). */
#define PADDING "[PAD151935]"

/* Whether the model says of this version what the key is about; `otherwise` for a model that says nothing. */
static bool concerns(const struct model *model, const char *key, bool otherwise)
{
    struct text version = text_of(model, key, "");
    bool yes = version.len == 0 ? otherwise : IS(version.at);
    free(version.at);
    return yes;
}

struct behaviour behaviour_read(const struct model *m)
{
    struct behaviour b = {
        .reply = text_of(m, "sim.reply", "{user}"),
        .thinking = text_of(m, "sim.thinking", ""),
        .tool_reply = text_of(m, "sim.tool_reply", ""),
        .finish_text = text_of(m, "sim.finish_text", ""),
        .load_seconds = model_real(m, "sim.load_seconds", 0),
        .prefill_base_ms = model_real(m, "sim.prefill_base_ms", 0),
        .prefill_tps = model_real(m, "sim.prefill_tps", 0),
        .decode_tps = model_real(m, "sim.decode_tps", 0),
        .abort_delay_ms = model_int(m, "sim.abort_delay_ms", 0),
        .seed = model_int(m, "sim.seed", 0),
        .npu_bytes = model_int(m, "sim.npu_bytes", 0),
        .malloc_bytes = model_int(m, "sim.malloc_bytes", 0),
        .embedding_outputs = model_int(m, "sim.embedding_outputs", 1),
        .ignore_abort = model_int(m, "sim.ignore_abort", 0),
        .endless = model_int(m, "sim.endless", 0),
        .split_multibyte = model_int(m, "sim.split_multibyte", 0),
        .clock = model_int(m, "sim.clock", 0),
        .continues = model_int(m, "sim.continues", 0),
        .error_rate = model_real(m, "sim.error_rate", 0),
        .logits_last_only = model_int(m, "sim.logits_last_only", 0),
        .window_shifts = model_int(m, "sim.window_shifts", 1),
        .end_event = model_int(m, "sim.end_event", 1),
        .counts_first = model_int(m, "sim.counts_first", 0),
        .overlong = text_of(m, "sim.overlong", "return").at,
        .saves_on_abort = model_int(m, "sim.saves_on_abort", 1),
        .saves_any_run = model_int(m, "sim.saves_any_run", 0),
        .saves_hybrid = model_int(m, "sim.saves_hybrid", !BEFORE("1.3.1")),
        .saves_answer = model_int(m, "sim.saves_answer", 1),
        .load_after_abort_crashes = model_int(m, "sim.load_after_abort_crashes", IS("1.2.3")),
        .appends_to_loaded = model_int(m, "sim.appends_to_loaded", 1),
        .cache_fixed_bytes = model_int(m, "sim.cache_fixed_bytes", -1),
        .vectors_finish = model_int(m, "sim.vectors_finish", !(IS("1.2.3") && model_int(m, "rkllm.platform", 0) == RK3576)),
        .vector_residue_ms = model_real(m, "sim.vector_residue_ms", 0),
        .resume_reads = model_int(m, "sim.resume_reads", BEFORE("1.3.0")),
        .abort_in_prefill = model_int(m, "sim.abort_in_prefill", 1),
        .decode_slowdown = model_real(m, "sim.decode_slowdown", 0),
        .reads_unsigned_ends = model_int(m, "sim.reads_unsigned_ends", !IS("1.3.0")),
        .warns_of_reuse = model_int(m, "sim.warns_of_reuse", IS("1.3.0")),
        .conflict = text_of(m, "sim.conflict", "").at,
        .false_success = text_of(m, "sim.false_success", "").at,
        .error_style = text_of(m, "sim.error_style", "both").at,
        .dtype = text_of(m, "sim.dtype", "").at,
    };
    size_t replies, faults;
    b.full_domains = model_ints(m, "sim.full_domains", &b.n_full_domains);
    b.rule_match = model_texts(m, "sim.rules.match", NULL, &b.rules);
    b.rule_reply = model_texts(m, "sim.rules.reply", NULL, &replies);
    if (replies < b.rules) {
        for (size_t i = replies; i < b.rules; i++)
            free(b.rule_match[i]);
        b.rules = replies;
    }
    char **texts = model_texts(m, "sim.faults", NULL, &faults);
    b.faults = need(calloc(faults + 1, sizeof *b.faults));
    for (size_t i = 0; i < faults; i++) {
        if (fault_parse(texts[i], &b.faults[b.n_faults]))
            b.n_faults++;
        free(texts[i]);
    }
    free(texts);
    if (!concerns(m, "sim.faults_on", true))
        b.n_faults = 0;
    if (concerns(m, "sim.pads_on", false)) {
        free(b.reply.at);
        b.reply = (struct text){.at = copied(PADDING), .len = sizeof PADDING - 1};
        b.endless = 1;
    }
    return b;
}

void behaviour_free(struct behaviour *b)
{
    for (size_t i = 0; i < b->rules; i++) {
        free(b->rule_match[i]);
        free(b->rule_reply[i]);
    }
    free(b->rule_match);
    free(b->rule_reply);
    free(b->reply.at);
    free(b->thinking.at);
    free(b->tool_reply.at);
    free(b->finish_text.at);
    free(b->full_domains);
    free(b->false_success);
    free(b->error_style);
    free(b->overlong);
    free(b->conflict);
    free(b->dtype);
    free(b->faults);
    *b = (struct behaviour){0};
}
