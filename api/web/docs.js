"use strict";
window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#documentation",
    deepLinking: true,
    // Its default sends the document's address to a validator on the internet.
    validatorUrl: null,
    // Our models have long lists of fields; the operations are what is looked for.
    defaultModelsExpandDepth: 0,
    presets: [SwaggerUIBundle.presets.apis],
  });
});
