// How to get the same answer from a terminal and from Python, for the server this page came from.

import { build, copyText } from "./dom.js";

/** Return {title: text} for a model of the server at ``base``. */
export function writeSnippets(model, base, withToken) {
  const address = new URL("v1/predict", base).href;
  const [key, value] = model.task === "detection" ? ["score", 0.5] : ["top", 5];
  const query = new URLSearchParams({ model: model.name, [key]: value });
  const url = `${address}?${query.toString().replaceAll("'", "%27")}`;
  const curl = ["curl -F file=@picture.jpg", withToken ? `-H "Authorization: Bearer $TOKEN"` : "", `'${url}'`];
  const python = [
    "import requests",
    "",
    `with open("picture.jpg", "rb") as file:`,
    "    answer = requests.post(",
    `        ${JSON.stringify(address)},`,
    `        params={"model": ${JSON.stringify(model.name)}, "${key}": ${value}},`,
    `        files={"file": file},`,
    ...(withToken ? ["        headers={\"Authorization\": f\"Bearer {token}\"},"] : []),
    "    ).json()",
  ];
  return { curl: curl.filter(Boolean).join(" "), Python: python.join("\n") };
}

export function buildSnippets(snippets) {
  return Object.entries(snippets).map(([title, text]) => {
    const copy = build("button", { class: "plain", type: "button", "aria-label": `Copy the ${title} code`,
      onclick: () => copyText(text, copy) }, "Copy");
    return build("div", { class: "snippet" }, build("h3", {}, title), copy,
      build("pre", { tabIndex: 0, role: "group", "aria-label": `${title} code` }, build("code", {}, text)));
  });
}
