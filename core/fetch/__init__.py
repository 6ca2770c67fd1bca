"""Calling addresses that strangers give: pictures by `image_url`, webhooks by `webhook_url`."""
