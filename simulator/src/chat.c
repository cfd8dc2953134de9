#include "chat.h"

#include <stdlib.h>
#include <string.h>

static const char EMPTY_THINKING[] = "<think>\n\n</think>\n\n";

/* How a user's turn opens and closes, and how an answer opens, in the templates of the models that people run on these
 * boards. */
static const struct {
    const char *open;
    const char *close;
    const char *answer;
} USER_TURNS[] = {
    {"<|im_start|>user\n", "<|im_end|>", "<|im_start|>assistant\n"},
    {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"<start_of_turn>user\n", "<end_of_turn>", "<start_of_turn>model\n"},
    {"<\xef\xbd\x9cUser\xef\xbd\x9c>", "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>"},
    {"<|user|>\n", "<|end|>", "<|assistant|>\n"},
    {"[INST]", "[/INST]", "[/INST]"},
};

static char *or_empty(char *text)
{
    return text == NULL ? copied("") : text;
}

struct chat chat_read(const struct model *model)
{
    return (struct chat){
        .system = or_empty(model_text(model, "rkllm.chat_template.system", NULL)),
        .prefix = or_empty(model_text(model, "rkllm.chat_template.pre", NULL)),
        .postfix = or_empty(model_text(model, "rkllm.chat_template.post", NULL)),
    };
}

void chat_free(struct chat *chat)
{
    free(chat->system);
    free(chat->prefix);
    free(chat->postfix);
    free(chat->tools);
    free(chat->tool_tag);
    *chat = (struct chat){0};
}

void chat_set(struct chat *chat, const char *system, const char *prefix, const char *postfix)
{
    free(chat->system);
    free(chat->prefix);
    free(chat->postfix);
    chat->system = copied(system == NULL ? "" : system);
    chat->prefix = copied(prefix == NULL ? "" : prefix);
    chat->postfix = copied(postfix == NULL ? "" : postfix);
    chat->custom = true;
}

bool chat_set_tools(struct chat *chat, const char *system, const char *tools, const char *tag)
{
    if (tools == NULL || tools[strspn(tools, " \t\r\n")] != '[')
        return false;
    struct bytes section = {0};
    bytes_say(&section, "<|im_start|>system\n");
    bytes_say(&section, system);
    bytes_say(&section, "\n\nFunctions that can be called:\n<tools>\n");
    bytes_say(&section, tools);
    bytes_say(&section, "\n</tools>\nA call is JSON between <tool_call> and </tool_call>.<|im_end|>\n");
    free(chat->tools);
    free(chat->tool_tag);
    chat->tools = section.at;
    chat->tool_tag = copied(tag == NULL || *tag == 0 ? "tool_response" : tag);
    return true;
}

size_t chat_render(const struct chat *chat, const struct input *input, bool first, struct bytes *to)
{
    size_t before = to->len;
    if (first)
        bytes_say(to, chat->tools == NULL ? chat->system : chat->tools);
    size_t system = to->len - before;
    bytes_say(to, chat->prefix);
    if (input->tool) {
        const char *tag = chat->tool_tag == NULL ? "tool_response" : chat->tool_tag;
        const char *parts[] = {"<", tag, ">\n", input->text, "\n</", tag, ">"};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            bytes_say(to, parts[i]);
    } else {
        bytes_say(to, input->text);
    }
    bytes_say(to, chat->postfix);
    if (chat->thinks && !chat->custom && input->no_thinking && RKLLM_GEN >= RKLLM_G4)
        bytes_say(to, EMPTY_THINKING);
    return system;
}

static const char *last_of(const char *text, const char *wanted)
{
    const char *found = NULL;
    for (const char *at = strstr(text, wanted); at != NULL; at = strstr(at + 1, wanted))
        found = at;
    return found;
}

struct bytes chat_last_user(const char *text)
{
    struct bytes user = {0};
    const char *best = NULL;
    const char *end = NULL;
    for (size_t i = 0; i < sizeof USER_TURNS / sizeof *USER_TURNS; i++) {
        const char *at = last_of(text, USER_TURNS[i].open);
        if (at == NULL || (best != NULL && at < best))
            continue;
        best = at + strlen(USER_TURNS[i].open);
        end = strstr(best, USER_TURNS[i].close);
    }
    if (best == NULL)
        best = text;
    bytes_add(&user, best, end == NULL ? strlen(best) : (size_t)(end - best));
    return user;
}

const char *chat_answer_begun(const char *text)
{
    const char *best = NULL;
    for (size_t i = 0; i < sizeof USER_TURNS / sizeof *USER_TURNS; i++) {
        const char *at = last_of(text, USER_TURNS[i].answer);
        if (at != NULL && at + strlen(USER_TURNS[i].answer) > best)
            best = at + strlen(USER_TURNS[i].answer);
    }
    return best == NULL ? text + strlen(text) : best;
}
