/*
 * The network behind the stand-in: linear, so that a language model can read colours and places out of its rows.
 *
 * The picture is cut into as many squares as there are tokens. A token's row copies the mean of its square, channel by
 * channel: float d of output k is (k + 1) * sign * value of channel (d + k) % 3, the sign being + where (d + k) / 3 is
 * even, else -, and the value (mean - 127.5) / 127.5. The vendor's simulator computes the same for the same network
 * (tests/rknn/vendor.npz).
 */
#ifndef SIM_LINEAR_H
#define SIM_LINEAR_H

#include "encoder_file.h"

#include <math.h>

static inline float linear_sign(uint32_t d)
{
    return d / 3 % 2 == 0 ? 1.0f : -1.0f;
}

/* False where the picture cannot be cut so. */
bool linear_encode(const uint8_t *pixels, uint32_t height, uint32_t width, const struct tensor *shape, uint32_t output,
                   float *rows);

#endif
