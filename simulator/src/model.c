#include "model.h"

#include "board.h"
#include "bytes.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum type { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, TYPES };

static const size_t WIDTH[TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct entry {
    char *key;
    enum type type; /* an array's item type when `items` is set */
    bool array;
    uint64_t count;
    const uint8_t *at; /* first value byte: a scalar, a string's length, an array's first item */
};

struct model {
    char *path;
    char *architecture;
    char toolkit[32];
    const uint8_t *data;
    size_t size;
    struct entry *entries;
    size_t count;
    uint64_t fingerprint;
};

/* A reading position; `ok` goes false at the first read past the end and every later read gives zeros. */
struct cursor {
    const uint8_t *at;
    const uint8_t *end;
    bool ok;
};

static uint8_t mask(size_t i) /* our own: the real container's mask is another one */
{
    return (uint8_t)(167u * (i % 256u) + 91u);
}

static const uint8_t *take(struct cursor *from, uint64_t len)
{
    static const uint8_t zeros[16];
    if (!from->ok || len > (uint64_t)(from->end - from->at)) {
        from->ok = false;
        return len <= sizeof zeros ? zeros : NULL;
    }
    const uint8_t *here = from->at;
    from->at += len;
    return here;
}

static uint32_t take_u32(struct cursor *from)
{
    uint32_t value;
    memcpy(&value, take(from, 4), 4);
    return value;
}

static uint64_t take_u64(struct cursor *from)
{
    uint64_t value;
    memcpy(&value, take(from, 8), 8);
    return value;
}

static char *take_text(struct cursor *from, size_t *length)
{
    uint64_t len = take_u64(from);
    const uint8_t *masked = take(from, len);
    if (!from->ok)
        len = 0;
    char *text = need(malloc(len + 1));
    for (uint64_t i = 0; i < len; i++)
        text[i] = (char)(masked[i] ^ mask(i));
    text[len] = 0;
    if (length != NULL)
        *length = len;
    return text;
}

static void skip_value(struct cursor *from, enum type type)
{
    if (type == STRING)
        take(from, take_u64(from));
    else
        take(from, WIDTH[type]);
}

static bool read_entry(struct cursor *from, struct entry *entry)
{
    entry->key = take_text(from, NULL);
    uint32_t type = take_u32(from);
    entry->array = type == ARRAY;
    entry->count = 1;
    if (entry->array) {
        type = take_u32(from);
        entry->count = take_u64(from);
    }
    if (!from->ok || type >= TYPES || type == ARRAY)
        return false;
    entry->type = type;
    entry->at = from->at;
    for (uint64_t i = 0; i < entry->count && from->ok; i++)
        skip_value(from, entry->type);
    return from->ok;
}

static void read_footer(struct model *model)
{
    static const char text[] = "rkllm-toolkit version: ";
    size_t look = model->size < 256 ? model->size : 256;
    const uint8_t *from = model->data + model->size - look;
    const uint8_t *found = memmem(from, look, text, sizeof text - 1);
    snprintf(model->toolkit, sizeof model->toolkit, "unknown");
    if (found == NULL)
        return;
    found += sizeof text - 1;
    size_t len = (size_t)(model->data + model->size - found);
    if (len > 0 && len < sizeof model->toolkit)
        snprintf(model->toolkit, sizeof model->toolkit, "%.*s", (int)len, (const char *)found);
}

/* Tensors: name, number of dimensions, dimensions, type, offset; the last byte of each must be in the file. */
static bool read_tensors(struct cursor *from, uint64_t count)
{
    uint64_t end_of_data = 0;
    for (uint64_t i = 0; i < count; i++) {
        free(take_text(from, NULL));
        uint32_t dimensions = take_u32(from);
        uint64_t bytes = 1;
        for (uint32_t d = 0; d < dimensions && from->ok; d++)
            bytes *= take_u64(from);
        take_u32(from);
        uint64_t end = take_u64(from) + bytes;
        if (!from->ok) {
            log_line('E', "failed to read tensor info");
            return false;
        }
        end_of_data = end > end_of_data ? end : end_of_data;
    }
    if (end_of_data > (uint64_t)(from->end - from->at)) {
        log_line('E', "failed to read tensor data");
        return false;
    }
    return true;
}

static bool read_magic(struct cursor *from, struct model *model, const char *runtime_version)
{
    static const uint8_t real[4] = {0xDA, 0xEE, 0xB3, 0x36};
    uint8_t wanted[4], magic[4];
    for (size_t i = 0; i < 4; i++)
        wanted[i] = (uint8_t)"GGUF"[i] ^ mask(i);
    memcpy(magic, take(from, 4), 4);

    bool matches = memcmp(magic, wanted, 4) == 0;
    if (memcmp(magic, real, 4) == 0)
        log_line('W', "SIMULATOR: %s is a real model, the simulator runs simulated ones only", model->path);
    /* 1.1.x knows an older container only: a 1.2.0 file fails at its first four bytes (rknn-llm issue 235). */
    bool readable = strncmp(runtime_version, "1.1.", 4) != 0 || strcmp(model->toolkit, "unknown") == 0 ||
                    version_compare(model->toolkit, "1.2.0") < 0;
    if (matches && readable)
        return true;
    if (strncmp(runtime_version, "1.1.", 4) == 0) {
        log_plain(": invalid magic characters '%c%c%c%c'", magic[0], magic[1], magic[2], magic[3]);
        log_plain(": error: failed to load model '%s'", model->path);
    } else {
        uint32_t number;
        memcpy(&number, magic, 4);
        log_line('E', "invalid magic number, got %08x", number);
        log_line('E', "invalid rkllm model!");
    }
    return false;
}

static bool read_header(struct model *model, const char *runtime_version)
{
    struct cursor from = {model->data, model->data + model->size, true};
    if (!read_magic(&from, model, runtime_version))
        return false;
    if (take_u32(&from) != 3) {
        log_line('E', "invalid version number");
        log_line('E', "invalid rkllm model!");
        return false;
    }
    uint64_t tensors = take_u64(&from);
    uint64_t entries = take_u64(&from);
    if (!from.ok || entries > model->size) {
        log_line('E', "invalid rkllm model!");
        return false;
    }
    model->entries = need(calloc(entries + 1, sizeof *model->entries));
    for (uint64_t i = 0; i < entries; i++) {
        model->count++;
        if (!read_entry(&from, &model->entries[i])) {
            log_line('E', "invalid rkllm model!");
            return false;
        }
    }
    model->architecture = model_text(model, "general.architecture", NULL);
    if (model->architecture == NULL) {
        log_line('E', "invalid rkllm model!");
        return false;
    }
    uint64_t hash = 14695981039346656037u;
    for (const uint8_t *at = model->data; at < from.at; at++)
        hash = (hash ^ *at) * 1099511628211u;
    model->fingerprint = hash;
    return read_tensors(&from, tensors);
}

struct model *model_open(const char *path, const char *runtime_version)
{
    struct model *model = need(calloc(1, sizeof *model));
    model->path = copied(path);

    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    bool opened = file >= 0 && fstat(file, &about) == 0;
    if (opened && S_ISDIR(about.st_mode)) {
        opened = false;
        errno = EISDIR;
    }
    if (!opened) {
        log_line('E', "failed to open '%s': '%s'", path, strerror(errno));
        if (file >= 0)
            close(file);
        model_close(model);
        return NULL;
    }
    model->size = (size_t)about.st_size;
    if (model->size > 0) {
        void *mapped = mmap(NULL, model->size, PROT_READ, MAP_PRIVATE, file, 0);
        model->data = mapped == MAP_FAILED ? NULL : mapped;
    }
    close(file);
    if (model->data == NULL) {
        log_line('E', "invalid rkllm model!");
        model_close(model);
        return NULL;
    }
    read_footer(model);
    if (!read_header(model, runtime_version)) {
        model_close(model);
        return NULL;
    }
    return model;
}

void model_close(struct model *model)
{
    if (model == NULL)
        return;
    for (size_t i = 0; i < model->count; i++)
        free(model->entries[i].key);
    free(model->entries);
    free(model->architecture);
    free(model->path);
    if (model->data != NULL)
        munmap((void *)(uintptr_t)model->data, model->size);
    free(model);
}

const char *model_path(const struct model *model)
{
    return model->path;
}

size_t model_size(const struct model *model)
{
    return model->size;
}

const char *model_toolkit(const struct model *model)
{
    return model->toolkit;
}

const char *model_architecture(const struct model *model)
{
    return model->architecture;
}

uint64_t model_fingerprint(const struct model *model)
{
    return model->fingerprint;
}

static const struct entry *find(const struct model *model, const char *key)
{
    char full[256];
    if (key[0] == '.') {
        snprintf(full, sizeof full, "%s%s", model->architecture, key);
        key = full;
    }
    for (size_t i = 0; i < model->count; i++)
        if (strcmp(model->entries[i].key, key) == 0)
            return &model->entries[i];
    return NULL;
}

static double number(enum type type, const uint8_t *at)
{
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } value;
    memcpy(&value, at, WIDTH[type]);
    switch (type) {
    case I8:
        return value.i8;
    case U16:
        return value.u16;
    case I16:
        return value.i16;
    case U32:
        return value.u32;
    case I32:
        return value.i32;
    case U64:
        return (double)value.u64;
    case I64:
        return (double)value.i64;
    case F32:
        return value.f32;
    case F64:
        return value.f64;
    default:
        return *at;
    }
}

bool model_unsigned(const struct model *model, const char *key)
{
    const struct entry *entry = find(model, key);
    return entry != NULL && entry->type == U32;
}

bool model_has(const struct model *model, const char *key)
{
    return find(model, key) != NULL;
}

double model_real(const struct model *model, const char *key, double otherwise)
{
    const struct entry *entry = find(model, key);
    return entry == NULL || entry->array || entry->type == STRING ? otherwise : number(entry->type, entry->at);
}

int64_t model_int(const struct model *model, const char *key, int64_t otherwise)
{
    return (int64_t)model_real(model, key, (double)otherwise);
}

char *model_text(const struct model *model, const char *key, size_t *len)
{
    const struct entry *entry = find(model, key);
    if (entry == NULL || entry->array || entry->type != STRING)
        return NULL;
    struct cursor from = {entry->at, model->data + model->size, true};
    return take_text(&from, len);
}

char **model_texts(const struct model *model, const char *key, size_t **lengths, size_t *count)
{
    const struct entry *entry = find(model, key);
    *count = entry == NULL || !entry->array || entry->type != STRING ? 0 : entry->count;
    char **texts = need(calloc(*count + 1, sizeof *texts));
    if (lengths != NULL)
        *lengths = need(calloc(*count + 1, sizeof **lengths));
    struct cursor from = {entry == NULL ? NULL : entry->at, model->data + model->size, true};
    for (size_t i = 0; i < *count; i++)
        texts[i] = take_text(&from, lengths == NULL ? NULL : &(*lengths)[i]);
    return texts;
}

int64_t *model_ints(const struct model *model, const char *key, size_t *count)
{
    const struct entry *entry = find(model, key);
    *count = entry == NULL || !entry->array || entry->type == STRING ? 0 : entry->count;
    int64_t *numbers = need(calloc(*count + 1, sizeof *numbers));
    for (size_t i = 0; i < *count; i++)
        numbers[i] = (int64_t)number(entry->type, entry->at + i * WIDTH[entry->type]);
    return numbers;
}
