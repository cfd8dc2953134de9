/* The calls of librknnrt that an encoder needs. Every size and argument is checked as strictly as can be. */
#include "rknn_api.h"

#include "encoder_file.h"
#include "linear.h"

#include "../src/board.h"
#include "../src/bytes.h"
#include "../src/log.h"
#include "../src/pace.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SIM_VERSION
#error "the version to imitate: -DSIM_VERSION='\"2.3.2\"'"
#endif

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)
SIZE(rknn_input_output_num, 8);
SIZE(rknn_tensor_attr, 376);
AT(rknn_tensor_attr, name, 72);
AT(rknn_tensor_attr, n_elems, 328);
AT(rknn_tensor_attr, qnt_type, 344);
AT(rknn_tensor_attr, zp, 352);
AT(rknn_tensor_attr, w_stride, 360);
AT(rknn_tensor_attr, pass_through, 368);
AT(rknn_tensor_attr, h_stride, 372);
SIZE(rknn_sdk_version, 512);
SIZE(rknn_mem_size, 64);
SIZE(rknn_input, 32);
AT(rknn_input, buf, 8);
AT(rknn_input, pass_through, 20);
AT(rknn_input, type, 24);
AT(rknn_input, fmt, 28);
SIZE(rknn_output, 24);
AT(rknn_output, index, 4);
AT(rknn_output, buf, 8);
AT(rknn_output, size, 16);

/* Found by whoever looks for the release before loading the file, as in the vendor's. */
__attribute__((used)) static const char VERSION[] = "librknnrt version: " SIM_VERSION " (stand-in@exo-rkllm)";

struct encoder {
    struct encoder_file file;
    struct board board;
    uint8_t *pixels;
    float *results[MOST_OUTPUTS];
    bool has_pixels, has_results;
    struct encoder *next;
};

/* Living contexts, so that a stale one is refused instead of followed. One thread uses the library. */
static struct encoder *living;

static int canary(const char *function, const char *what)
{
    log_npu('E', "%s, SIMULATOR: wrong argument or struct layout: %s", function, what);
    return RKNN_ERR_PARAM_INVALID;
}

static bool readable(const void *at, size_t size)
{
    char byte;
    struct iovec here = {&byte, 1}, first = {(void *)(uintptr_t)at, 1};
    struct iovec last = {(char *)(uintptr_t)at + size - 1, 1};
    return at != NULL && size > 0 && process_vm_readv(getpid(), &here, 1, &first, 1, 0) == 1 &&
           process_vm_readv(getpid(), &here, 1, &last, 1, 0) == 1;
}

static struct encoder *encoder_of(rknn_context context)
{
    struct encoder *encoder = living;
    while (encoder != NULL && (rknn_context)(uintptr_t)encoder != context)
        encoder = encoder->next;
    return encoder;
}

static size_t elements(const struct tensor *tensor)
{
    size_t count = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        count *= tensor->dims[i];
    return count;
}

static void strike(const struct encoder *encoder, const char *place)
{
    const char *at = strchr(encoder->file.fault, '@');
    if (at == NULL || strcmp(at + 1, place) != 0)
        return;
    if (strncmp(encoder->file.fault, "kill", 4) == 0)
        raise(SIGKILL);
    if (strncmp(encoder->file.fault, "segv", 4) == 0) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (strncmp(encoder->file.fault, "hang", 4) == 0)
        for (;;)
            pause();
}

static bool fails(const struct encoder *encoder, const char *place)
{
    const char *at = strchr(encoder->file.fault, '@');
    return at != NULL && strcmp(at + 1, place) == 0 && strncmp(encoder->file.fault, "fail", 4) == 0;
}

RKNN_EXPORT int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, void *extend)
{
    if (context == NULL || !readable(model, 1))
        return canary("rknn_init", "context or model is NULL");
    if (size != 0)
        return canary("rknn_init", "this stand-in loads files by their paths only: size has to be 0");
    if (flag != 0 || extend != NULL)
        return canary("rknn_init", "flag and extend have to be 0");
    struct encoder *encoder = need(calloc(1, sizeof *encoder));
    encoder->board = board_read();
    if (encoder->board.driver[0] == 0) {
        log_npu('E', "failed to open rknpu module, need to insmod rknpu driver!");
        free(encoder);
        return RKNN_ERR_DEVICE_UNAVAILABLE;
    }
    if (!encoder_file_read(model, &encoder->file) || encoder->file.input.n_dims != 4 ||
        encoder->file.input.dims[1] != 3) {
        free(encoder);
        return RKNN_ERR_MODEL_INVALID;
    }
    if (strcasecmp(encoder->file.platform, encoder->board.soc) != 0) {
        log_npu('E', "RKNN Model's target platform is %s, does not match the current platform %s", encoder->file.platform,
                encoder->board.soc);
        free(encoder);
        return RKNN_ERR_TARGET_PLATFORM_UNMATCH;
    }
    log_npu('W', "SIMULATOR: this is exo-rkllm's stand-in for librknnrt %s, there is no NPU behind it", SIM_VERSION);
    strike(encoder, "init");
    pace_sleep(encoder->file.load_seconds);
    encoder->next = living;
    living = encoder;
    *context = (rknn_context)(uintptr_t)encoder;
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_destroy(rknn_context context)
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    struct encoder **link = &living;
    while (*link != encoder)
        link = &(*link)->next;
    *link = encoder->next;
    free(encoder->pixels);
    for (size_t i = 0; i < MOST_OUTPUTS; i++)
        free(encoder->results[i]);
    free(encoder);
    return RKNN_SUCC;
}

static int attribute(const struct encoder *encoder, rknn_tensor_attr *attr, bool input)
{
    uint32_t index = attr->index;
    if (index >= (input ? 1 : encoder->file.n_outputs))
        return canary("rknn_query", "the tensor's index is too large");
    const struct tensor *tensor = input ? &encoder->file.input : &encoder->file.outputs[index];
    memset(attr, 0, sizeof *attr);
    attr->index = index;
    attr->n_dims = tensor->n_dims;
    memcpy(attr->dims, tensor->dims, tensor->n_dims * sizeof *attr->dims);
    attr->n_elems = (uint32_t)elements(tensor);
    attr->type = RKNN_TENSOR_FLOAT16;
    attr->size = attr->size_with_stride = attr->n_elems * 2;
    attr->fmt = RKNN_TENSOR_UNDEFINED;
    attr->scale = 1;
    if (input) { /* the file has NCHW, and the library takes NHWC */
        attr->fmt = RKNN_TENSOR_NHWC;
        attr->dims[1] = tensor->dims[2];
        attr->dims[2] = tensor->dims[3];
        attr->dims[3] = tensor->dims[1];
        attr->w_stride = tensor->dims[3];
    }
    snprintf(attr->name, sizeof attr->name, input ? "pixels" : "embedding%u", index);
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_query(rknn_context context, int command, void *info, uint32_t size)
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    static const struct {
        int command;
        uint32_t size;
    } SIZES[] = {
        {RKNN_QUERY_IN_OUT_NUM, sizeof(rknn_input_output_num)}, {RKNN_QUERY_INPUT_ATTR, sizeof(rknn_tensor_attr)},
        {RKNN_QUERY_OUTPUT_ATTR, sizeof(rknn_tensor_attr)},     {RKNN_QUERY_SDK_VERSION, sizeof(rknn_sdk_version)},
        {RKNN_QUERY_MEM_SIZE, sizeof(rknn_mem_size)},
    };
    size_t row = 0;
    while (row < sizeof SIZES / sizeof *SIZES && SIZES[row].command != command)
        row++;
    if (row == sizeof SIZES / sizeof *SIZES)
        return canary("rknn_query", "an unknown command");
    if (size != SIZES[row].size || !readable(info, size))
        return canary("rknn_query", "the size of the answer");
    if (command == RKNN_QUERY_INPUT_ATTR || command == RKNN_QUERY_OUTPUT_ATTR)
        return attribute(encoder, info, command == RKNN_QUERY_INPUT_ATTR);
    memset(info, 0, size);
    if (command == RKNN_QUERY_IN_OUT_NUM) {
        *(rknn_input_output_num *)info = (rknn_input_output_num){1, encoder->file.n_outputs};
    } else if (command == RKNN_QUERY_SDK_VERSION) {
        rknn_sdk_version *version = info;
        snprintf(version->api_version, sizeof version->api_version, "%s (stand-in@exo-rkllm)", SIM_VERSION);
        snprintf(version->drv_version, sizeof version->drv_version, "%.31s", encoder->board.driver);
    } else {
        ((rknn_mem_size *)info)->total_weight_size = 1 << 20;
    }
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_set_core_mask(rknn_context context, int mask)
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    int cores = encoder->board.cores;
    bool known = mask == 0 || mask == 1 || mask == 2 || mask == 4 || mask == 3 || mask == 7;
    if (cores < 2 || !known || mask >= 1 << cores) {
        log_npu('E', "rknn_set_core_mask, core mask %d is not supported on %s", mask, encoder->board.soc);
        return RKNN_ERR_PARAM_INVALID;
    }
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input inputs[])
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    if (count != 1 || !readable(inputs, sizeof *inputs) || inputs->index != 0)
        return canary("rknn_inputs_set", "one input with the index 0 is expected");
    size_t size = elements(&encoder->file.input);
    if (inputs->type != RKNN_TENSOR_UINT8 || inputs->fmt != RKNN_TENSOR_NHWC || inputs->pass_through != 0)
        return canary("rknn_inputs_set", "type, fmt or pass_through");
    if (inputs->size != size || !readable(inputs->buf, size)) {
        log_npu('E', "rknn_inputs_set, input size %u does not match the model's %zu", inputs->size, size);
        return RKNN_ERR_INPUT_INVALID;
    }
    if (encoder->pixels == NULL)
        encoder->pixels = need(malloc(size));
    memcpy(encoder->pixels, inputs->buf, size);
    encoder->has_pixels = true;
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_run(rknn_context context, void *extend)
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    if (extend != NULL || !encoder->has_pixels)
        return canary("rknn_run", "extend has to be NULL, and the input has to be set before");
    double started = pace_now();
    board_show_load(&encoder->board, true);
    strike(encoder, "run");
    bool good = !fails(encoder, "run");
    const struct encoder_file *file = &encoder->file;
    for (uint32_t i = 0; good && i < file->n_outputs; i++) {
        if (encoder->results[i] == NULL)
            encoder->results[i] = need(calloc(elements(&file->outputs[i]), sizeof(float)));
        good = linear_encode(encoder->pixels, file->input.dims[2], file->input.dims[3], &file->outputs[i], i,
                             encoder->results[i]);
    }
    pace_until(started + file->run_seconds);
    board_show_load(&encoder->board, false);
    encoder->has_pixels = false;
    encoder->has_results = good;
    return good ? RKNN_SUCC : RKNN_ERR_FAIL;
}

RKNN_EXPORT int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output outputs[], void *extend)
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    if (count != encoder->file.n_outputs || extend != NULL || !readable(outputs, count * sizeof *outputs))
        return canary("rknn_outputs_get", "as many outputs as the model has are expected");
    if (!encoder->has_results)
        return canary("rknn_outputs_get", "nothing was run");
    for (uint32_t i = 0; i < count; i++) {
        size_t size = elements(&encoder->file.outputs[i]) * sizeof(float);
        if (outputs[i].index != i || outputs[i].want_float != 1 || outputs[i].is_prealloc > 1)
            return canary("rknn_outputs_get", "index, want_float or is_prealloc");
        if (!outputs[i].is_prealloc) {
            outputs[i].buf = need(malloc(size));
            outputs[i].size = (uint32_t)size;
        } else if (outputs[i].size != size || !readable(outputs[i].buf, size)) {
            log_npu('E', "rknn_outputs_get, output %u has %zu bytes, and the buffer has %u", i, size, outputs[i].size);
            return RKNN_ERR_OUTPUT_INVALID;
        }
        memcpy(outputs[i].buf, encoder->results[i], size);
    }
    return RKNN_SUCC;
}

RKNN_EXPORT int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output outputs[])
{
    struct encoder *encoder = encoder_of(context);
    if (encoder == NULL)
        return RKNN_ERR_CTX_INVALID;
    if (count != encoder->file.n_outputs || !readable(outputs, count * sizeof *outputs))
        return canary("rknn_outputs_release", "as many outputs as the model has are expected");
    for (uint32_t i = 0; i < count; i++)
        if (!outputs[i].is_prealloc) {
            free(outputs[i].buf);
            outputs[i].buf = NULL;
        }
    return RKNN_SUCC;
}
