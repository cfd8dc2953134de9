/* Which part of the page a narrow screen shows: chat, conversations or board. */
import { signal } from "./vendor/libs.js";

export const view = signal("chat");
