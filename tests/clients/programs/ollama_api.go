// Ollama's own Go client, with the options that it sends by default.
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"

	"github.com/ollama/ollama/api"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	base, err := url.Parse(os.Args[1])
	check(err)
	client, ctx := api.NewClient(base, http.DefaultClient), context.Background()
	_, err = client.Version(ctx)
	check(err)
	list, err := client.List(ctx)
	check(err)
	if len(list.Models) == 0 {
		panic("no models")
	}
	defaults, text := map[string]any{"seed": -1, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "num_predict": -1,
		"repeat_last_n": 64, "typical_p": 1.0, "temperature": 0.8, "repeat_penalty": 1.1, "num_ctx": 2048}, ""
	err = client.Chat(ctx, &api.ChatRequest{Model: "qwen3-4b", Options: defaults,
		Messages: []api.Message{{Role: "user", Content: "hi"}}}, func(one api.ChatResponse) error {
		text += one.Message.Content
		return nil
	})
	check(err)
	if text != "Hello there." {
		panic(text)
	}
	shown, err := client.Show(ctx, &api.ShowRequest{Model: "qwen3-4b"})
	check(err)
	if shown.ModelInfo["general.basename"] == "" {
		panic("no name")
	}
	_, err = client.Embed(ctx, &api.EmbedRequest{Model: "story", Input: []string{"hi"}})
	check(err)
	build, _ := debug.ReadBuildInfo()
	for _, module := range build.Deps {
		if module.Path == "github.com/ollama/ollama" {
			fmt.Println(module.Version)
		}
	}
}
