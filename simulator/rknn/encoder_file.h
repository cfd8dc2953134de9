/* A `.rknn` file: 64 bytes of head, the vendor's data, and a block of JSON that names shapes and platform. */
#ifndef SIM_ENCODER_FILE_H
#define SIM_ENCODER_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOST_OUTPUTS 8
#define MOST_DIMS 8

struct tensor {
    uint32_t dims[MOST_DIMS];
    uint32_t n_dims;
};

struct encoder_file {
    struct tensor input; /* NCHW, as the file has it */
    struct tensor outputs[MOST_OUTPUTS];
    uint32_t n_outputs;
    char platform[32];
    /* The stand-in's own files say more; a real one has none of these keys. */
    double load_seconds, run_seconds;
    char fault[32]; /* kill@run, hang@run, fail@run, kill@init */
};

/* False, with a sentence on stdout, where the file is none or cannot be read. */
bool encoder_file_read(const char *path, struct encoder_file *file);

#endif
