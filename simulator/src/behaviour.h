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
    bool continues; /* the answer goes on from what of it stands behind the prompt */
    double error_rate; /* the share of tokens that are others than those of the answer */
    bool clock; /* each token's text is the monotonic clock in ns, read just before its callback */
    bool logits_last_only;
    /* Rows of the boards' measurements: README.md has their sources, behaviour.c each version's default. */
    bool window_shifts;
    bool end_event;
    bool counts_first;
    bool saves_on_abort;
    bool saves_any_run;
    bool saves_hybrid;
    bool saves_answer;
    bool load_after_abort_crashes;
    bool appends_to_loaded;
    bool vectors_finish;
    bool resume_reads;
    bool abort_in_prefill;
    bool reads_unsigned_ends;
    bool warns_of_reuse;
    int64_t cache_fixed_bytes; /* -1: by the vocabulary's size */
    double vector_residue_ms;
    double decode_slowdown;
    char *overlong; /* as error_style, for a prompt that does not fit */
    char *conflict; /* "", "submit" or "hang" */
    char *false_success; /* "", "abort" or "null" */
    char *error_style;   /* "both", "return" or "callback" */
    char *dtype;
    struct fault *faults;
    size_t n_faults;
};

struct behaviour behaviour_read(const struct model *model);
void behaviour_free(struct behaviour *behaviour);

#endif
