/* The chat template: the model file's own, or the caller's plain concatenation, and the tools section. */
#ifndef SIM_CHAT_H
#define SIM_CHAT_H

#include "abi.h"
#include "bytes.h"
#include "model.h"

struct chat {
    char *system;
    char *prefix;
    char *postfix;
    char *tools; /* a system section that names the tools, NULL without them */
    char *tool_tag;
    bool custom; /* set by the caller: enable_thinking means nothing any more */
    bool thinks; /* the model answers with a thinking part */
};

struct chat chat_read(const struct model *model);
void chat_free(struct chat *chat);
void chat_set(struct chat *chat, const char *system, const char *prefix, const char *postfix);
bool chat_set_tools(struct chat *chat, const char *system, const char *tools, const char *tag);

/* Appends one turn; the system section only when `first`. Returns how many bytes that section has. */
size_t chat_render(const struct chat *chat, const struct input *input, bool first, struct bytes *to);

/* The last thing the user said in a rendered conversation of any common template; all of it when none is known. */
struct bytes chat_last_user(const char *text);

/* What a rendered conversation holds of its answer already; empty when it ends where an answer begins. */
const char *chat_answer_begun(const char *text);

#endif
