#include "reply.h"

#include "sampler.h"
#include "vision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASKED_MOST 160 /* bytes; ours, so that the default answer stays short */

/* The answer as it grows. What is quoted from the prompt is plain: its tags do not end the answer. */
struct script {
    struct bytes text;
    struct bytes plain; /* a byte each, 1 = quoted */
};

static const char TOOL_RESPONSE[] = "<tool_response>";
static const char THOUGHT[] = "</think>\n\n";
#define EARLY_END 8 /* of so many errors one is the end of the answer; ours */

static void say(struct script *script, const char *text, size_t len, char plain)
{
    bytes_add(&script->text, text, len);
    for (size_t i = 0; i < len; i++)
        bytes_add(&script->plain, &plain, 1);
}

static void say_text(struct script *script, const char *text)
{
    say(script, text, strlen(text), 0);
}

static bool ends_with(const struct bytes *text, const char *end)
{
    size_t len = strlen(end);
    return text->len >= len && memcmp(text->at + text->len - len, end, len) == 0;
}

/* The value of a {name}, or NULL when it is no placeholder of ours. */
static struct bytes *placeholder(const struct session *s, const struct prompt *prompt, const char *name, size_t len,
                                 struct bytes *room)
{
    char number[32];
    *room = (struct bytes){0};
    if (len == 4 && memcmp(name, "user", 4) == 0) {
        bytes_add(room, prompt->user.at, prompt->user.len);
    } else if (len == 5 && memcmp(name, "asked", 5) == 0) {
        size_t most = prompt->user.len < ASKED_MOST ? prompt->user.len : ASKED_MOST;
        bytes_add(room, prompt->user.at, most - utf8_waiting(prompt->user.at, most));
        if (most < prompt->user.len)
            bytes_say(room, "...");
    } else if (len == 6 && memcmp(name, "prompt", 6) == 0) {
        bytes_add(room, prompt->text.at, prompt->text.len);
    } else if (len == 5 && memcmp(name, "media", 5) == 0) {
        snprintf(number, sizeof number, "%zu", prompt->media);
        bytes_say(room, number);
    } else if (len == 4 && memcmp(name, "sees", 4) == 0) {
        vision_describe(s, prompt, room);
    } else if (len == 5 && memcmp(name, "cache", 5) == 0) {
        const struct cache *cache = &s->lanes[0].cache;
        snprintf(number, sizeof number, "%zu:%08x", cache->count, (unsigned)cache_digest(cache));
        bytes_say(room, number);
    } else if (len == 7 && memcmp(name, "encoder", 7) == 0) {
        snprintf(number, sizeof number, "%d", s->encoder_tokens);
        bytes_say(room, number);
    } else {
        return NULL;
    }
    return room;
}

/* Takes {placeholders} and [[one|of|these]]; everything else, single brackets and JSON included, stays as it is. */
static void expand(const struct session *s, const struct prompt *prompt, const char *text, size_t len,
                   struct sampler *sampler, struct script *to)
{
    const char *end = text + len;
    while (text < end) {
        size_t left = (size_t)(end - text);
        if (*text == '{') {
            const char *close = memchr(text, '}', left);
            struct bytes room;
            if (close != NULL && placeholder(s, prompt, text + 1, (size_t)(close - text - 1), &room) != NULL) {
                say(to, room.at, room.len, 1);
                bytes_free(&room);
                text = close + 1;
                continue;
            }
        }
        if (left > 4 && text[0] == '[' && text[1] == '[') {
            struct option options[32];
            size_t count = 0;
            const char *close = memmem(text, left, "]]", 2);
            const char *inner = memchr(text + 2, '[', left - 2);
            if (close != NULL && (inner == NULL || inner > close) && memchr(text, '|', (size_t)(close - text)) != NULL) {
                for (const char *at = text + 2; at <= close && count < 32;) {
                    const char *bar = memchr(at, '|', (size_t)(close - at));
                    const char *stop = bar == NULL ? close : bar;
                    options[count++] = (struct option){at, (size_t)(stop - at)};
                    at = stop + 1;
                }
                size_t taken = sampler_choose(sampler, options, count);
                say(to, options[taken].at, options[taken].len, 0);
                text = close + 2;
                continue;
            }
        }
        const char *plain = text + 1;
        while (plain < end && *plain != '{' && *plain != '[')
            plain++;
        say(to, text, (size_t)(plain - text), 0);
        text = plain;
    }
}

static const char *rule(const struct session *s, const char *text)
{
    for (size_t i = 0; i < s->behaviour.rules; i++)
        if (strstr(text, s->behaviour.rule_match[i]) != NULL)
            return s->behaviour.rule_reply[i];
    return NULL;
}

/* The first tool of the prompt's <tools> section whose name the user mentions. */
static bool tool_call(const struct prompt *prompt, struct script *to)
{
    const char *at = strstr(prompt->text.at, "<tools>");
    const char *end = at == NULL ? NULL : strstr(at, "</tools>");
    if (end == NULL)
        return false;
    while ((at = strstr(at, "\"name\"")) != NULL && at < end) {
        at += strcspn(at, ":");
        at += strcspn(at, "\"");
        if (*at == 0)
            return false;
        size_t len = strcspn(++at, "\"");
        if (len > 0 && memmem(prompt->user.at, prompt->user.len, at, len) != NULL) {
            say_text(to, "<tool_call>\n{\"name\": \"");
            say(to, at, len, 1);
            say_text(to, "\", \"arguments\": {}}\n</tool_call>");
            return true;
        }
    }
    return false;
}

/* A turn that brings a tool's result: only what the tool said is left of it. */
static bool tool_result(struct prompt *prompt)
{
    char *at = strstr(prompt->user.at, TOOL_RESPONSE);
    if (at == NULL)
        return false;
    at += strlen(TOOL_RESPONSE);
    at += strspn(at, "\n");
    char *end = strstr(at, "</tool_response>");
    size_t len = end == NULL ? strlen(at) : (size_t)(end - at);
    while (len > 0 && at[len - 1] == '\n')
        len--;
    memmove(prompt->user.at, at, len);
    prompt->user.at[len] = 0;
    prompt->user.len = len;
    return true;
}

static void think(const struct session *s, const struct prompt *prompt, struct sampler *sampler, struct script *to)
{
    const struct text *thinking = &s->behaviour.thinking;
    if (thinking->len == 0 || ends_with(&prompt->text, THOUGHT))
        return;
    if (s->behaviour.continues && strstr(chat_answer_begun(prompt->text.at), THOUGHT) != NULL)
        return;
    if (!ends_with(&prompt->text, "<think>\n")) /* some templates open the tag themselves */
        say_text(to, "<think>\n");
    expand(s, prompt, thinking->at, thinking->len, sampler, to);
    say_text(to, "\n</think>\n\n");
}

/* Where the answer goes on behind `begun`: what has most of its last bytes before it, of several places the one that is
 * nearest to where so long an answer would stand. */
static size_t continued_at(const struct bytes *answer, const char *begun)
{
    size_t len = strlen(begun), best = 0, at = len < answer->len ? len : answer->len;
    for (size_t end = 1; end <= answer->len; end++) {
        size_t shared = 0;
        while (shared < end && shared < len && answer->at[end - 1 - shared] == begun[len - 1 - shared])
            shared++;
        size_t far = end > len ? end - len : len - end, so_far = at > len ? at - len : len - at;
        if (shared > best || (shared == best && shared > 0 && far < so_far)) {
            best = shared;
            at = end;
        }
    }
    return at;
}

/* Takes from the answer what stands behind the prompt already. */
static void go_on(const struct prompt *prompt, struct script *answer)
{
    const char *begun = chat_answer_begun(prompt->text.at), *thought = strstr(begun, THOUGHT);
    if (thought != NULL)
        begun = thought + strlen(THOUGHT);
    if (*begun == 0 || answer->text.len == 0 || strcmp(begun, "<think>\n") == 0)
        return;
    size_t at = continued_at(&answer->text, begun);
    answer->text.len -= at;
    memmove(answer->text.at, answer->text.at + at, answer->text.len + 1);
    memmove(answer->plain.at, answer->plain.at + at, answer->text.len);
}

/* Puts other tokens in the place of some, or ends the answer there. */
static void err(const struct session *s, struct sampler *sampler, struct tokens *answer)
{
    for (size_t i = 0; i < answer->count; i++) {
        if (sampler_uniform(sampler) >= s->behaviour.error_rate)
            continue;
        if (sampler_uniform(sampler) * EARLY_END < 1) {
            answer->count = i;
            return;
        }
        size_t id;
        do
            id = (size_t)(sampler_uniform(sampler) * (double)s->vocabulary.count);
        while (s->vocabulary.pieces[id].kind != KIND_NORMAL);
        answer->ids[i] = (int32_t)id;
    }
}

bool reply_choose(struct session *s, const struct prompt *given, const struct adapter *adapter,
                  const struct sampling *sampling, size_t lane, struct tokens *to)
{
    struct prompt prompt = *given;
    prompt.user = (struct bytes){0};
    bytes_add(&prompt.user, given->user.at, given->user.len);
    struct sampler sampler = {.sampling = *sampling,
                              .state = mix((uint64_t)s->behaviour.seed) ^ mix(s->runs * 64u + lane)};
    struct script answer = {0};

    think(s, &prompt, &sampler, &answer);
    const char *ruled = rule(s, prompt.user.at);
    if (ruled == NULL)
        ruled = rule(s, prompt.text.at);
    if (adapter != NULL)
        expand(s, &prompt, adapter->reply.at, adapter->reply.len, &sampler, &answer);
    else if (ruled != NULL)
        expand(s, &prompt, ruled, strlen(ruled), &sampler, &answer);
    else if (s->behaviour.tool_reply.len > 0 && tool_result(&prompt))
        expand(s, &prompt, s->behaviour.tool_reply.at, s->behaviour.tool_reply.len, &sampler, &answer);
    else if (!tool_call(&prompt, &answer))
        expand(s, &prompt, s->behaviour.reply.at, s->behaviour.reply.len, &sampler, &answer);

    if (s->behaviour.continues)
        go_on(&prompt, &answer);
    to->count = 0;
    struct bytes *text = &answer.text;
    bool good = text->len == 0 || prompt_encode(s, text->at, text->len, answer.plain.at, to);
    if (s->behaviour.error_rate > 0 && s->has_tokenizer)
        err(s, &sampler, to);
    bytes_free(&answer.text);
    bytes_free(&answer.plain);
    bytes_free(&prompt.user);
    return good;
}
