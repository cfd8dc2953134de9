#include "linear.h"

#include "../src/log.h"

bool linear_encode(const uint8_t *pixels, uint32_t height, uint32_t width, const struct tensor *shape, uint32_t output,
                   float *rows)
{
    uint32_t first = 0;
    while (first < shape->n_dims && shape->dims[first] == 1)
        first++;
    if (first + 1 >= shape->n_dims) {
        log_npu('E', "SIMULATOR: an output has one row a token");
        return false;
    }
    uint32_t tokens = shape->dims[first], row = shape->dims[first + 1];
    uint32_t side = (uint32_t)lround(sqrt(tokens));
    if (side * side != tokens || height % side != 0 || width % side != 0) {
        log_npu('E', "SIMULATOR: a picture of %u x %u cannot be cut into %u squares", width, height, tokens);
        return false;
    }
    uint32_t high = height / side, wide = width / side;
    for (uint32_t t = 0; t < tokens; t++) {
        double sum[3] = {0};
        for (uint32_t y = 0; y < high; y++) {
            const uint8_t *at = pixels + 3 * ((size_t)(t / side * high + y) * width + (size_t)(t % side) * wide);
            for (uint32_t x = 0; x < wide; x++, at += 3)
                for (int c = 0; c < 3; c++)
                    sum[c] += at[c];
        }
        for (uint32_t d = 0; d < row; d++) {
            float value = (float)((sum[(d + output) % 3] / ((double)high * wide) - 127.5) / 127.5);
            rows[(size_t)t * row + d] = (float)(output + 1) * linear_sign(d + output) * value;
        }
    }
    return true;
}
