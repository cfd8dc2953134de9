#include "vision.h"

#include "../rknn/linear.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Half of linear_encode's rounding to fp16, and some more. */
#define TOLERANCE 0.01f
#define SOME 0.75 /* of one token's square: less is an edge */

static const struct {
    const char *name;
    float value[3];
} COLOURS[] = {
    {"red", {1, -1, -1}},  {"green", {-1, 0, -1}}, {"green", {-1, 1, -1}}, {"blue", {-1, -1, 1}},
    {"yellow", {1, 1, -1}}, {"black", {-1, -1, -1}}, {"white", {1, 1, 1}},   {"grey", {0, 0, 0}},
    {"orange", {1, 0.3f, -1}}, {"purple", {0, -1, 0}},
};
#define N_COLOURS (sizeof COLOURS / sizeof *COLOURS)

/* A token's colour out of its row: all copies of a channel have to agree, in each output of the encoder. */
static bool colour_of(const float *row, size_t width, size_t outputs, float *value)
{
    for (int c = 0; c < 3; c++)
        value[c] = linear_sign((uint32_t)c) * row[c];
    for (size_t k = 0; k < outputs; k++)
        for (size_t d = 0; d < width; d++) {
            float got = row[k * width + d] / ((float)(k + 1) * linear_sign((uint32_t)(d + k)));
            if (fabsf(got - value[(d + k) % 3]) > TOLERANCE)
                return false;
        }
    return true;
}

/* The nearest name; SIZE_MAX for a mixture, as along the edge of a shape. */
static size_t named(const float *value)
{
    size_t best = SIZE_MAX;
    float least = 0.5f;
    for (size_t i = 0; i < N_COLOURS; i++) {
        float far = 0;
        for (int c = 0; c < 3; c++)
            far = fmaxf(far, fabsf(value[c] - COLOURS[i].value[c]));
        if (far < least) {
            least = far;
            best = i;
        }
    }
    return best;
}

static const char *place(double x, double y)
{
    static const char *const NAMES[3][3] = {
        {"top left", "top", "top right"}, {"left", "centre", "right"}, {"bottom left", "bottom", "bottom right"}};
    int row = y < 1.0 / 3 ? 0 : y < 2.0 / 3 ? 1 : 2, column = x < 1.0 / 3 ? 0 : x < 2.0 / 3 ? 1 : 2;
    return NAMES[row][column];
}

struct patches {
    double count, x, y;
};

static void describe(const struct session *s, const float *const *rows, size_t count, struct bytes *to)
{
    size_t side = (size_t)lround(sqrt((double)count));
    struct patches found[N_COLOURS] = {0};
    for (size_t t = 0; t < count; t++) {
        float value[3];
        if (side * side != count || rows[t] == NULL ||
            !colour_of(rows[t], (size_t)s->width, (size_t)s->behaviour.embedding_outputs, value)) {
            bytes_say(to, "I see nothing but noise.");
            return;
        }
        size_t colour = named(value);
        if (colour == SIZE_MAX)
            continue;
        for (size_t i = 0; i < colour; i++) /* two shades of one name count together */
            if (strcmp(COLOURS[i].name, COLOURS[colour].name) == 0)
                colour = i;
        found[colour].count++;
        found[colour].x += ((double)(t % side) + 0.5) / (double)side;
        found[colour].y += ((double)(t / side) + 0.5) / (double)side;
    }
    /* Grey is what is around a picture that is no square; the commonest other colour is what the shapes are on. */
    size_t ground = SIZE_MAX;
    for (size_t i = 0; i < N_COLOURS; i++)
        if (strcmp(COLOURS[i].name, "grey") != 0 && found[i].count >= SOME &&
            (ground == SIZE_MAX || found[i].count > found[ground].count))
            ground = i;
    if (ground == SIZE_MAX) {
        bytes_say(to, "I see nothing but grey.");
        return;
    }
    char text[128];
    snprintf(text, sizeof text, "I see %s", COLOURS[ground].name);
    bytes_say(to, text);
    const char *between = ", with ";
    for (size_t i = 0; i < N_COLOURS; i++) {
        if (i == ground || strcmp(COLOURS[i].name, "grey") == 0 || found[i].count < SOME)
            continue;
        snprintf(text, sizeof text, "%s%s at the %s", between, COLOURS[i].name,
                 place(found[i].x / found[i].count, found[i].y / found[i].count));
        bytes_say(to, text);
        between = " and ";
    }
    bytes_say(to, ".");
}

void vision_describe(const struct session *s, const struct prompt *prompt, struct bytes *to)
{
    if (prompt->media == 0)
        bytes_say(to, "I see no picture.");
    for (size_t i = 0; i < prompt->media; i++) {
        char text[48];
        if (i > 0)
            bytes_say(to, " ");
        if (prompt->media > 1) {
            snprintf(text, sizeof text, "Picture %zu: ", i + 1);
            bytes_say(to, text);
        }
        describe(s, prompt->rows + prompt->seen[i].first, prompt->seen[i].count, to);
    }
}
