#include "sampler.h"

#include <math.h>
#include <string.h>

#define OPTIONS_MOST 32 /* alternatives in one place of a reply; ours */

uint64_t mix(uint64_t value) /* splitmix64 */
{
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

static uint64_t hash(const struct option *option)
{
    uint64_t value = option->len;
    for (size_t i = 0; i < option->len; i++)
        value = mix(value ^ (uint8_t)option->at[i]);
    return value;
}

double sampler_uniform(struct sampler *sampler)
{
    sampler->state = mix(sampler->state);
    return (double)(sampler->state >> 11) / 9007199254740992.0;
}

/* The n-th alternative starts with a logit of 10 - n/2; the penalties follow the usual definitions. */
static double logit(const struct sampler *sampler, const struct option *option, size_t rank)
{
    double value = 10.0 - 0.5 * (double)rank;
    uint64_t own = hash(option);
    size_t uses = 0;
    for (size_t i = 0; i < sampler->taken && i < SAMPLER_REMEMBERS; i++)
        uses += sampler->used[i] == own;
    if (uses == 0)
        return value;
    if (sampler->sampling.repeat_penalty > 0)
        value /= sampler->sampling.repeat_penalty;
    return value - (double)uses * sampler->sampling.frequency_penalty - sampler->sampling.presence_penalty;
}

static void sort(size_t *order, const double *logits, size_t count)
{
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j > 0 && logits[order[j]] > logits[order[j - 1]]; j--) {
            size_t swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
}

size_t sampler_choose(struct sampler *sampler, const struct option *options, size_t count)
{
    const struct sampling *s = &sampler->sampling;
    double logits[OPTIONS_MOST], weights[OPTIONS_MOST];
    size_t order[OPTIONS_MOST];
    if (count > OPTIONS_MOST)
        count = OPTIONS_MOST;
    for (size_t i = 0; i < count; i++) {
        logits[i] = logit(sampler, &options[i], i);
        order[i] = i;
    }
    sort(order, logits, count);

    size_t left = count, taken = 0;
    if (s->temperature > 0 && s->top_k != 1) {
        if (s->mirostat == 0 && s->top_k > 0 && (size_t)s->top_k < left)
            left = (size_t)s->top_k;
        double total = 0;
        for (size_t i = 0; i < left; i++)
            total += weights[i] = exp((logits[order[i]] - logits[order[0]]) / s->temperature);
        if (s->mirostat == 0 && s->top_p < 1) {
            double reached = 0;
            size_t keep = 0;
            while (keep < left && (keep == 0 || reached < s->top_p * total))
                reached += weights[keep++];
            left = keep;
            total = reached;
        }
        double point = sampler_uniform(sampler) * total;
        while (taken + 1 < left && point >= weights[taken])
            point -= weights[taken++];
    }
    taken = order[taken];
    sampler->used[sampler->taken++ % SAMPLER_REMEMBERS] = hash(&options[taken]);
    return taken;
}
