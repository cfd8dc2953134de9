/* A simulated .rkllm file: a GGUF-like header with masked strings, a tensor directory, a toolkit footer. */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model;

/* Prints the vendor's error lines and returns NULL when the file is missing, damaged or no simulated model. */
struct model *model_open(const char *path, const char *runtime_version);
void model_close(struct model *model);

const char *model_path(const struct model *model);
size_t model_size(const struct model *model);
const char *model_toolkit(const struct model *model);   /* from the footer; "unknown" without one */
const char *model_architecture(const struct model *model);
uint64_t model_fingerprint(const struct model *model);  /* tells two models apart in saved prompt caches */

/* Values by key; a leading '.' stands for the architecture's name. A key that is absent gives the default. */
int64_t model_int(const struct model *model, const char *key, int64_t otherwise);
double model_real(const struct model *model, const char *key, double otherwise);
bool model_unsigned(const struct model *model, const char *key); /* a UINT32 */
bool model_has(const struct model *model, const char *key);
char *model_text(const struct model *model, const char *key, size_t *len); /* malloc'd, NULL when absent */
/* Arrays, malloc'd and empty when absent. */
char **model_texts(const struct model *model, const char *key, size_t **lengths, size_t *count);
int64_t *model_ints(const struct model *model, const char *key, size_t *count);

#endif
