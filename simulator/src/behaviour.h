/* How a simulated model behaves: the keys below "sim." in its file, read once at load. README.md lists them. */
#ifndef SIM_BEHAVIOUR_H
#define SIM_BEHAVIOUR_H

#include "fault.h"
#include "model.h"

struct text {
    char *at;
    size_t len;
};

struct behaviour {
    struct text reply;
    struct text thinking;
    struct text tool_reply;
    char **rule_match;
    char **rule_reply;
    size_t rules;
    struct text finish_text;
    double load_seconds;
    double prefill_base_ms;
    double prefill_tps;
    double decode_tps;
    int64_t abort_delay_ms;
    int64_t seed;
    int64_t npu_bytes;
    int64_t malloc_bytes;
    int64_t embedding_outputs;
    int64_t *full_domains;
    size_t n_full_domains;
    bool ignore_abort;
    bool endless;
    bool split_multibyte;
    bool clock; /* each token's text is the monotonic clock in ns, read just before its callback */
    bool logits_last_only;
    char *false_success; /* "", "abort" or "null" */
    char *error_style;   /* "both", "return" or "callback" */
    char *dtype;
    struct fault *faults;
    size_t n_faults;
};

struct behaviour behaviour_read(const struct model *model);
void behaviour_free(struct behaviour *behaviour);

#endif
