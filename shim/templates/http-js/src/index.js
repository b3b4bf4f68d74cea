addEventListener("fetch", (event) => {
  event.respondWith(new Response("hello from {{name}}\n", { headers: { "content-type": "text/plain" } }));
});
