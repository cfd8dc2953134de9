#include "timings.h"

#include "log.h"

static void row(const char *stage, double ms, int tokens)
{
    log_line('I', " %-12s  %-15.2f  %-8d  %-23.2f  %-23.2f", stage, ms, tokens, tokens > 0 ? ms / tokens : 0,
             ms > 0 ? tokens / ms * 1000 : 0);
}

static void rule(void)
{
    log_line('I', "--------------------------------------------------------------------------------------");
}

void timings_log(const struct session *session, const struct perf *perf)
{
    const char *memory = RKLLM_GEN < RKLLM_G4 ? "Memory Usage (GB)" : "Peak Memory Usage (GB)";
    rule();
    if (RKLLM_GEN >= RKLLM_G4) {
        log_line('I', " Model init time (ms)  %.2f", session->init_ms);
        rule();
    }
    log_line('I', " %-12s  %-15s  %-8s  %-23s  %-23s", "Stage", "Total Time (ms)", "Tokens", "Time per Token (ms)",
             "Tokens per Second");
    rule();
    if (RKLLM_GEN < RKLLM_G4)
        log_line('I', " %-12s  %-15.2f  %-8s  %-23s  %-23s", "Init", session->init_ms, "/", "/", "/");
    row("Prefill", perf->prefill_ms, perf->prefill_tokens);
    row("Generate", perf->generate_ms, perf->generate_tokens);
    rule();
    log_line('I', " %s", memory);
    log_line('I', " %-12.2f", memory_peak_mb() / 1024);
    rule();
}
