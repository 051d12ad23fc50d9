// SPDX-License-Identifier: Apache-2.0
"use strict";
// Everything that a text or a model says is put on the page as text, never as HTML.
const $ = (id) => document.getElementById(id);
let models = [], chosen = null, asked = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function request(path, body) {
  const headers = {"Content-Type": "application/json"};
  if ($("token").value) headers.Authorization = "Bearer " + $("token").value;
  const how = body === undefined ? {headers} : {method: "POST", headers, body: JSON.stringify(body)};
  const response = await fetch(path, how);
  const said = await response.json();
  if (response.status === 401) $("secret").hidden = false;
  if (!response.ok) throw new Error(said.error);
  return said;
}

const NAMES = {text: "Text", text_a: "First text", text_b: "Second text"};
const OF_ANSWERS = {text_a: "Question", text_b: "Text with the answer"};

function choose(name) {
  chosen = models.find((model) => model.name === name);
  $("about").textContent =
    `${chosen.name}, version ${chosen.version}: ${chosen.task.replaceAll("_", " ")}, by ${chosen.engine}`;
  const names = chosen.task === "question_answering" ? OF_ANSWERS : NAMES;
  $("fields").replaceChildren(...chosen.texts.map((text) => {
    const field = element("textarea", {id: "field-" + text, name: text, required: true});
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
    });
    const hint = chosen.mask ? ` with ${chosen.mask} in place of words` : "";
    return element("p", {}, element("label", {htmlFor: field.id}, names[text] + hint), field);
  }));
  $("examples").hidden = !chosen.examples.length;
  $("examples").querySelector("ul").replaceChildren(...chosen.examples.map((texts) => {
    const button = element("button", {type: "button"}, texts.join(" | "));
    button.addEventListener("click", () => {
      chosen.texts.forEach((text, n) => { $("field-" + text).value = texts[n]; });
      $("ask").requestSubmit();
    });
    return element("li", {}, button);
  }));
  for (const id of ["answer", "reasons", "line"]) $(id).hidden = true;
}

function bars(pairs, best) {
  return pairs.map(([label, score]) => {
    const bar = element("div", {className: "bar"});
    bar.style.width = `${Math.round(1000 * score) / 10}%`;
    const track = element("div", {className: "track"}, bar);
    track.setAttribute("aria-hidden", "true");
    const value = element("span", {}, `${(100 * score).toFixed(1)} %`);
    const row = element("div", {className: "row"}, element("span", {}, label), track, value);
    if (best(label)) row.classList.add("best");
    return row;
  });
}

// Places are counted in characters, as Python does; JavaScript's strings count halves of some.
function marked(text, places) {
  const characters = Array.from(text), parts = [];
  let end = 0;
  for (const {start, stop, label, title} of places) {
    if (start < end) continue;
    parts.push(characters.slice(end, start).join(""));
    const name = label ? [element("small", {}, label)] : [];
    parts.push(element("mark", {title}, characters.slice(start, stop).join(""), ...name));
    end = stop;
  }
  parts.push(characters.slice(end).join(""));
  return element("p", {className: "text"}, ...parts);
}

function shown(answer, texts) {
  const percent = (score) => `${(100 * score).toFixed(1)} %`;
  if ("probabilities" in answer) {
    const pairs = answer.label_names.map((label, n) => [label, answer.probabilities[n]]);
    const is_yes = new Set(answer.label_names.filter((label, n) =>
      answer.predicted ? answer.predicted[n] : label === answer.label));
    return bars(pairs.sort((a, b) => b[1] - a[1]), (label) => is_yes.has(label));
  }
  if ("value" in answer) return [element("p", {}, element("strong", {}, answer.value.toFixed(4)))];
  if ("entities" in answer) {
    const places = answer.entities.map((each) =>
      ({start: each.start, stop: each.end, label: each.label, title: percent(each.score)}));
    const none = places.length ? [] : [element("p", {}, "No entity.")];
    return [marked(texts[0], places), ...none];
  }
  if ("tags" in answer) {
    return answer.tokens.map((token, n) =>
      element("div", {className: "row"}, element("span", {}, token), element("span", {}, answer.tags[n])));
  }
  if ("masks" in answer) {
    return answer.masks.flatMap((words, n) => [
      element("p", {className: "hint"}, `${chosen.mask} ${n + 1}`),
      ...bars(words.map(({word, score}) => [word, score]), (word) => word === words[0].word),
    ]);
  }
  if (answer.start < 0) return [element("p", {}, "The text has no answer.")];
  const place = {start: answer.start, stop: answer.end, title: percent(answer.score)};
  return [
    element("p", {}, element("strong", {}, answer.answer), ` (${percent(answer.score)})`),
    marked(texts[1], [place]),
  ];
}

function instance(texts) {
  return texts.length === 1 ? texts[0] : Object.fromEntries(chosen.texts.map((t, n) => [t, texts[n]]));
}

async function ask(event) {
  event.preventDefault();
  const texts = chosen.texts.map((text) => $("field-" + text).value);
  const body = {instances: [instance(texts)]};
  const path = `v1/models/${encodeURIComponent(chosen.name)}:predict`;
  const number = ++asked, model = chosen;
  $("reasons").hidden = true;
  try {
    const {predictions: [said]} = await request(path, body);
    if (number !== asked) return;
    // A single output stands alone in the body.
    const answer = Array.isArray(said) ? {masks: said} : said;
    $("said").replaceChildren(...shown(answer, texts));
    const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
    const secret = $("token").value ? " -H 'Authorization: Bearer SECRET'" : "";
    $("curl").textContent =
      `curl -H 'Content-Type: application/json'${secret} -d '${quoted}' ${new URL(path, location.href)}`;
    $("line").hidden = false;
  } catch (error) {
    if (number !== asked) return;
    $("said").replaceChildren(element("p", {className: "fault"}, error.message));
  }
  $("copied").textContent = "";
  $("answer").hidden = false;
  if (model.explained && !$("said").querySelector(".fault")) explain(texts, number, model);
}

async function explain(texts, number, model) {
  let said;
  try {
    said = await request("page/explain", {model: model.name, inputs: [instance(texts)]});
  } catch {
    return;  // the answer stands without it
  }
  if (number !== asked) return;
  const largest = Math.max(...said.words.map(({weight}) => Math.abs(weight)), 1e-9);
  const parts = [];
  texts.forEach((text, n) => {
    const characters = Array.from(text);
    let end = 0;
    for (const word of said.words.filter((each) => each.text === n)) {
      parts.push(characters.slice(end, word.start).join(""));
      const sign = word.weight > 0 ? "for" : "against";
      const made = element("span", {className: "word", title: word.weight.toFixed(4)},
        characters.slice(word.start, word.end).join(""));
      made.style.backgroundColor = `rgba(var(--${sign}), ${(0.6 * Math.abs(word.weight) / largest).toFixed(3)})`;
      parts.push(made);
      end = word.end;
    }
    parts.push(characters.slice(end).join("") + (n + 1 < texts.length ? "\n" : ""));
  });
  $("words").replaceChildren(...parts);
  const what = said.label === "value" ? "the value" : `“${said.label}”`;
  $("how").textContent = `Green words speak for ${what}, red ones against it; found by ${said.how}.`;
  $("reasons").hidden = false;
}

async function begin() {
  try {
    models = await request("page/models");
  } catch (error) {
    $("about").textContent = error.message;
    return;
  }
  $("model").replaceChildren(...models.map(({name}) => element("option", {value: name}, name)));
  $("choice").hidden = models.length < 2;
  // A link may bring texts, behind the #, which is not sent to the server: #text=never once dull
  const given = new URLSearchParams(location.hash.slice(1));
  choose(models.some(({name}) => name === given.get("model")) ? given.get("model") : models[0].name);
  $("model").value = chosen.name;
  if (chosen.texts.every((text) => given.get(text))) {
    for (const text of chosen.texts) $("field-" + text).value = given.get(text);
    $("ask").requestSubmit();
  }
}

$("ask").addEventListener("submit", ask);
$("model").addEventListener("change", () => choose($("model").value));
$("token").addEventListener("change", begin);
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copied").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("curl"));
    $("copied").textContent = "Selected; copy it by Ctrl and C";
  }
});
begin();
