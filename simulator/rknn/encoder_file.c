#include "encoder_file.h"

#include "../src/bytes.h"
#include "../src/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 64
#define LONGEST_JSON (1u << 20)

static const char *value_of(const char *json, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    for (const char *at = strstr(json, quoted); at != NULL; at = strstr(at, quoted)) {
        at += strlen(quoted);
        at += strspn(at, " ");
        if (*at == ':') /* otherwise it is somebody's value */
            return at + strspn(at, " :[");
    }
    return NULL;
}

static void text_of(const char *json, const char *key, char *into, size_t room)
{
    const char *at = value_of(json, key);
    if (at == NULL || *at != '"')
        return;
    size_t len = strcspn(at + 1, "\"");
    snprintf(into, room, "%.*s", (int)len, at + 1);
}

static double number_of(const char *json, const char *key)
{
    const char *at = value_of(json, key);
    return at == NULL ? 0 : strtod(at, NULL);
}

/* Shapes stand under norm_tensor in the order of their ids: the input, then the outputs. */
static bool shapes(const char *json, struct encoder_file *file)
{
    const char *at = value_of(json, "norm_tensor");
    const char *end = at == NULL ? NULL : strstr(at, "}]");
    for (uint32_t count = 0; end != NULL; count++) {
        at = strstr(at, "\"size\"");
        if (at == NULL || at > end)
            return count > 1;
        if (count > MOST_OUTPUTS)
            return false;
        struct tensor *tensor = count == 0 ? &file->input : &file->outputs[file->n_outputs++];
        at += strcspn(at, "[") + 1;
        while (*at != ']' && tensor->n_dims < MOST_DIMS) {
            char *next;
            tensor->dims[tensor->n_dims++] = (uint32_t)strtoul(at, &next, 10);
            if (next == at)
                return false;
            at = next + strspn(next, ", ");
        }
    }
    return false;
}

static char *json_of(FILE *in)
{
    unsigned char head[24];
    uint64_t size, length;
    if (fread(head, 1, sizeof head, in) != sizeof head || memcmp(head, "RKNN\0\0\0\0", 8) != 0)
        return NULL;
    memcpy(&size, head + 16, sizeof size);
    if (size > (uint64_t)1 << 40 || fseek(in, (long)(HEAD + size), SEEK_SET) != 0 ||
        fread(&length, sizeof length, 1, in) != 1 || length < 2 || length > LONGEST_JSON)
        return NULL;
    char *json = need(calloc(1, length + 1));
    if (fread(json, 1, length, in) != length || *json != '{') {
        free(json);
        return NULL;
    }
    return json;
}

bool encoder_file_read(const char *path, struct encoder_file *file)
{
    *file = (struct encoder_file){0};
    FILE *in = fopen(path, "rb");
    if (in == NULL) {
        log_npu('E', "rknn_init, open rknn model file %s failed", path);
        return false;
    }
    char *json = json_of(in);
    fclose(in);
    bool good = json != NULL && shapes(json, file);
    if (good) {
        text_of(json, "target_platform", file->platform, sizeof file->platform);
        text_of(json, "sim_fault", file->fault, sizeof file->fault);
        file->load_seconds = number_of(json, "sim_load_seconds");
        file->run_seconds = number_of(json, "sim_run_seconds");
    } else {
        log_npu('E', "parseRKNN from buffer: Invalid RKNN format!");
    }
    free(json);
    return good;
}
