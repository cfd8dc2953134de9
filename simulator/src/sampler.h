/* Sampling where one can see it: which of a reply's [[alternatives]] is taken. */
#ifndef SIM_SAMPLER_H
#define SIM_SAMPLER_H

#include "abi.h"

#define SAMPLER_REMEMBERS 64 /* tokens that penalties count, as llama.cpp's default; the vendor's: ? */

struct sampler {
    struct sampling sampling;
    uint64_t state;
    uint64_t used[SAMPLER_REMEMBERS]; /* hashes of what was taken last, for the penalties */
    size_t taken;                     /* how many were ever */
};

struct option {
    const char *at;
    size_t len;
};

double sampler_uniform(struct sampler *sampler); /* from 0 up to 1 */
size_t sampler_choose(struct sampler *sampler, const struct option *options, size_t count);
uint64_t mix(uint64_t value); /* a hash of one number */

#endif
